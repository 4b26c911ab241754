import math
import shlex
from pathlib import Path

import pytest
from hydra.types import RunMode
from synthetic import ended, record, runs_of, study

from ablab.api import compose
from ablab.config import fingerprint
from ablab.config.compose import composed
from ablab.config.ladder import written_out
from ablab.report.context import ReportContext
from ablab.report.html.page import page
from ablab.report.html.sections.mechanism import mechanism
from ablab.report.html.sections.runs import command, health, origins, parameter_groups, question
from ablab.study.job import _refuse_what_is_for_sweeps
from ablab.study.planning import budget, ladder
from ablab.study.trials import tuning


def test_commands_survive_the_shell() -> None:
    item = record(7, variant="attention=lsh,model.sizes=[1,2],question=a b;c")
    assert shlex.split(command(item)) == ["ablab", "attention=lsh", "model.sizes=[1,2]", "question=a b;c", "seed=7"]
    assert command(record(1, variant="")) == "ablab seed=1"


def test_commands_are_of_one_run() -> None:
    """What only a sweep takes is left out, as one run would refuse it; what a budget has set is there."""
    of_sweeps = ["jobs=2", "budget.match=flops", "tune.lr=[0.1,0.2]", "+retry=failed", "~design.variants.a", "seed=0"]
    kept = ["attention=lsh", "trainer.max_steps=298", "hang_timeout=9"]
    asked = [*of_sweeps, *kept, "name=x", "comparison.margin=0.1", "hydra.sweep.dir=y"]
    item = record(3, settings={"overrides": asked})
    assert shlex.split(command(item)) == ["ablab", *kept, "seed=3"]


ALONE = """
# @package _global_
name: alone
defaults: [{override /design: explicit}]
design: {variants: {gpt2: {}, rope: {position: rope}}, placebo: order}
ladder: {sizes: [32, 48]}
tune: {lr: [1e-3, 3e-3], optimizer: {weight_decay: [0.0, 0.1]}}
budget: {match: params}
model: {n_layers: 2}
hydra: {mode: MULTIRUN, sweeper: {params: {seed: "0,1"}}}
"""


@pytest.mark.parametrize(
    "own",
    [
        ["model.d_model=32"],  # the baseline
        ["position=rope", "model.d_model=48", "optimizer.lr=0.003", "++model.placebo=order", "tune.max_steps=5"],
    ],
)
def test_the_command_of_a_run_of_a_study_from_a_file_trains_that_run(tmp_path: Path, own: list[str]) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "alone.yaml").write_text(ALONE, encoding="utf-8")
    of_study = compose("study=alone", *own, "seed=1", config_dir=tmp_path)
    item = record(1, config=of_study.to_dict(), fingerprint=fingerprint(of_study))
    program, *words = shlex.split(command(item))
    assert program == "ablab"
    again = compose(*words, config_dir=tmp_path)
    assert fingerprint(again) == item.fingerprint
    assert again.name == f"again/{item.fingerprint[:12]}"
    assert composed(written_out(words), [tmp_path]).hydra.mode == RunMode.RUN
    _refuse_what_is_for_sweeps(written_out(words))
    for of_sweeps in (budget, ladder, tuning):
        of_sweeps.refuse_for_one_run(again)


def test_origins_count_the_runs_where_they_differ() -> None:
    rows = dict(origins(runs_of([record(1), record(2), record(3, git=None)])))
    assert rows["torch"] == "2.13.0"
    assert rows["git commit"] == "0123456789abcdef (2 runs); unknown (1 runs)"


def test_origins_tell_how_many_samples_were_evaluated() -> None:
    items = [record(seed, evaluated={"val": 1000, "test": 2000 if seed == 3 else 500}) for seed in (1, 2, 3)]
    rows = dict(origins(runs_of([*items, ended("failed", "boom", 4)])))
    assert rows["samples evaluated, val"] == "1,000"
    assert rows["samples evaluated, test"] == "500 (2 runs); 2,000 (1 runs)"
    assert not [name for name in dict(origins(runs_of([record()]))) if name.startswith("samples")]


def test_variants_share_the_rows_of_the_groups_that_they_share() -> None:
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


def test_records_without_groups_make_no_table() -> None:
    assert parameter_groups(runs_of([record(), record(2, parameter_groups=None)])).empty


def test_the_question_is_the_studys() -> None:
    assert question(runs_of([record()])) is None
    assert question(runs_of([record(config={"question": "Why?"})])) == "Why?"


def test_every_seed_of_every_variant_has_a_cell() -> None:
    runs = runs_of([*study({"relu": [1.0, math.nan], "gelu": [1.0]}), ended("failed", "boom", 1)])
    grid = health(ReportContext.of(runs))
    assert grid.seeds == [1, 2]
    assert [ends for _, _, ends in grid.rows] == [["ok, failed", "diverged"], ["ok", "not run"]]


def test_a_traceback_is_shown_once_with_the_runs_that_it_is_of() -> None:
    broken = [
        record(seed, status="failed", reason="boom", metrics={}, traceback=text)
        for seed, text in ((3, "in <f>"), (4, "in <f>"), (5, "in g"), (6, None))
    ]
    runs = runs_of([*study({"relu": [1.0]}), *broken])
    found = health(ReportContext.of(runs)).tracebacks
    assert [text for _, text in found] == ["in <f>", "in g"]
    assert [title.partition("seed")[2] for title, _ in found] == [" 3 and 1 more", " 5"]


def test_mechanism_metrics_that_the_same_variants_have_share_a_table() -> None:
    told = {
        "full": {"attention/visited": 9.0},
        "csa": {"attention/visited": 5.0, "attention/entries": 2.0, "attention/recall": 0.5},
        "gated_delta": {"attention/decay": 0.9, "attention/lost": math.nan},
        "dsa": {"attention/visited": 4.0, "attention/recall": 0.7},
    }
    items = [
        record(seed, axes={"attention": option}, mechanism={**metrics, f"attention/own_{option}/layer_0": 1.0})
        for option, metrics in told.items()
        for seed in (1, 2, 3)
    ]
    tables = [block.table for block in mechanism(ReportContext.of(runs_of(items))).blocks]
    found = [(list(t.columns[1:]), [name.partition("=")[2] for name in t["variant"]]) for t in tables if t is not None]
    assert found == [
        (["lost"], ["full", "csa", "gated_delta", "dsa"]),
        (["visited"], ["full", "csa", "dsa"]),
        (["recall"], ["csa", "dsa"]),
        (["decay"], ["gated_delta"]),
        (["entries"], ["csa"]),
    ]


def test_mechanisms_of_many_tasks_are_folded_away_under_their_names() -> None:
    def page_of(tasks: list[str]) -> str:
        told = {"attention/mass": 1.0}
        each = [record(seed, axes={"task": task}, mechanism=told) for task in tasks for seed in (1, 2, 3)]
        return page(ReportContext.of(runs_of(each)))

    few, many = page_of(["a", "b", "c"]), page_of(["a", "b", "c", "d"])
    assert "<details" not in few
    section = many.partition('<section id="mechanism">')[2].partition("</section>")[0]
    assert section.count("</details>") == 4
    for task in "abcd":
        inside = section.partition(f"<summary><h3>{task}</h3></summary>")[2].partition("</details>")[0]
        assert "<h4>attention</h4>" in inside
        assert "mass" in inside


def test_how_to_train_many_runs_again_is_folded_away() -> None:
    def page_of(runs: int) -> str:
        return page(ReportContext.of(runs_of([record(seed) for seed in range(runs)])))

    title = "<summary><h3>To train each run again</h3></summary>"
    assert title not in page_of(40)
    many = page_of(41)
    assert "seed=40" in many.partition(title)[2].partition("</details>")[0]


def test_mechanism_metrics_are_told_by_axis() -> None:
    items = [record(seed, mechanism={"activation/zero_share": seed / 10, "attention/mass": 1.0}) for seed in (1, 2, 3)]
    runs = runs_of(items)
    blocks = mechanism(ReportContext.of(runs)).blocks
    assert [block.title for block in blocks] == ["activation", "attention"]
    assert blocks[0].table is not None
    assert blocks[0].table.to_dict("records") == [{"variant": "default", "zero_share": "0.20 ± 0.10"}]
