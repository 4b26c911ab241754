import math
import shlex
from pathlib import Path

import pytest
from synthetic import ended, record, runs_of, study, write_runs

from ablab.report.html.curves import curves_of, read_curve
from ablab.report.html.figures.canvas import looks
from ablab.report.html.provenance import command, origins, parameter_groups, question
from ablab.report.html.sections import health, mechanism_tables
from ablab.results.collect import collect


def test_sparse_rows_become_one_curve_per_metric(tmp_path: Path):
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,train_loss,val_loss\n0,10,2.5,\n0,10,,2.0\n0,20,1.5,\n0,20,,nan\n", encoding="utf-8")
    train, val = read_curve(log, "train_loss"), read_curve(log, "val_loss")
    assert train is not None
    assert val is not None
    assert train.to_dict() == {10: 2.5, 20: 1.5}
    assert val.to_dict() == {10: 2.0}


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n", "step,val_loss\n10,\n", 'step,val_loss\n1,"2\n'])
def test_a_log_without_the_metric_has_no_curve(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text, encoding="utf-8")
    assert read_curve(tmp_path / "metrics.csv", "val_loss") is None


def test_bands_span_the_finished_seeds_and_diverged_runs_stand_alone(tmp_path: Path):
    runs = collect([write_runs(tmp_path, study({"relu": [1.0, 2.0, math.nan]}))])
    found = curves_of(runs, "language", "val_loss")
    last = next(iter(found.means.values())).iloc[-1]
    assert last.to_dict() == {"mean": 1.5, "min": 1.0, "max": 2.0}
    assert len(found.diverged) == 1


def test_commands_survive_the_shell():
    item = record(7, variant="attention=lsh,model.sizes=[1,2],name=a b;c")
    assert shlex.split(command(item)) == ["ablab", "attention=lsh", "model.sizes=[1,2]", "name=a b;c", "seed=7"]
    assert command(record(1, variant="")) == "ablab seed=1"


def test_origins_count_the_runs_where_they_differ():
    rows = dict(origins(runs_of([record(1), record(2), record(3, git=None)])))
    assert rows["torch"] == "2.13.0"
    assert rows["git commit"] == "0123456789abcdef (2 runs); unknown (1 runs)"


def test_origins_tell_how_many_samples_were_evaluated():
    items = [record(seed, evaluated={"val": 1000, "test": 2000 if seed == 3 else 500}) for seed in (1, 2, 3)]
    rows = dict(origins(runs_of([*items, ended("failed", "boom", 4)])))
    assert rows["samples evaluated, val"] == "1,000"
    assert rows["samples evaluated, test"] == "500 (2 runs); 2,000 (1 runs)"
    assert not [name for name in dict(origins(runs_of([record()]))) if name.startswith("samples")]


def test_variants_share_the_rows_of_the_groups_that_they_share():
    group = {"name": "matrices", "tensors": 6, "parameters": 12345, "lr": 0.1, "weight_decay": 0.0, "optimizer": "SGD"}
    slower = [{**group, "lr": 0.05}, {**group, "name": "head"}]
    chosen = {"relu": [group], "gelu": [group], "glu": slower}
    items = [
        record(seed, axes={"activation": option}, parameter_groups=groups)
        for option, groups in chosen.items()
        for seed in (1, 2)
    ]
    found = parameter_groups(runs_of(items))
    assert list(found["variants"]) == ["activation=relu; activation=gelu", "activation=glu", "activation=glu"]
    assert list(found["group"]) == ["matrices", "matrices", "head"]
    assert list(found["parameters"]) == ["12,345"] * 3
    assert list(found["learning rate"]) == ["0.1", "0.05", "0.1"]


def test_records_without_groups_make_no_table():
    assert parameter_groups(runs_of([record(), record(2, parameter_groups=None)])).empty


def test_the_question_is_the_studys():
    assert question(runs_of([record()])) is None
    assert question(runs_of([record(config={"question": "Why?"})])) == "Why?"


def test_every_seed_of_every_variant_has_a_cell():
    grid = health(runs_of([*study({"relu": [1.0, math.nan], "gelu": [1.0]}), ended("failed", "boom", 1)]))
    assert grid.seeds == [1, 2]
    assert [ends for _, _, ends in grid.rows] == [["ok, failed", "diverged"], ["ok", "not run"]]


def test_mechanism_metrics_are_told_by_axis():
    items = [record(seed, mechanism={"activation/zero_share": seed / 10, "attention/mass": 1.0}) for seed in (1, 2, 3)]
    tables = mechanism_tables(runs_of(items), "language")
    assert list(tables) == ["activation", "attention"]
    assert tables["activation"].to_dict("records") == [{"variant": "default", "zero_share": "0.20 ± 0.10"}]


def test_forty_variants_look_different():
    found = looks([f"v{index}" for index in range(40)], "v0")
    assert len({(look.colour, look.marker) for look in found.values()}) == 40
