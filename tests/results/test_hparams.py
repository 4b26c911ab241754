"""Final metrics by name, and the HPARAMS tab as TensorBoard's own plugin reads it from the files."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic import record as finished
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.get_experiment import Handler as GetExperiment
from tensorboard.plugins.hparams.list_session_groups import Handler as ListSessionGroups

from ablab.results.hparams import final_metrics, hyperparameters, write_experiment, write_hparams
from ablab.results.record import Cost, Metric, Record, Status

STATUSES = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING, api_pb2.STATUS_UNKNOWN]


def record(attention: str, seed: int, status: Status = "ok", **changes: Any) -> Record:
    settings: dict[str, Any] = {
        "status": status,
        "fingerprint": "f",
        "study": "which attention",
        "variant": f"attention={attention}",
        "seed": seed,
        "axes": {"attention": attention, "activation": "gelu"},
        "config": {"model": {"d_model": 64}},
        "primary": Metric(name="val_loss", split="val", direction="min"),
        "metrics": {"val_loss": 2.0 + seed, "accuracy": 0.5},
        "started_at": "2026-01-02T03:04:05+00:00",
        "finished_at": "2026-01-02T03:05:05+00:00",
    }
    return Record(**{**settings, **changes})


def tab(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The tab's columns, and its rows by name."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    context = Context(SimpleNamespace(data_provider=MultiplexerDataProvider(multiplexer, str(folder))))
    experiment = GetExperiment(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()
    columns = [_as_the_page_asks(info) for info in experiment.hparam_infos]
    columns += [api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos]
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=STATUSES, col_params=columns, aggregation_type=api_pb2.AGGREGATION_AVG, slice_size=100
    )
    rows = ListSessionGroups(RequestContext(), context, "", request).run()
    return experiment, {group.name: group for group in rows.session_groups}


def _as_the_page_asks(info: Any) -> Any:
    """A column with every value ticked, as it is at first."""
    column = api_pb2.ColParams(hparam=info.name)
    if len(info.domain_discrete):
        column.filter_discrete.CopyFrom(info.domain_discrete)
    elif info.HasField("domain_interval"):
        column.filter_interval.CopyFrom(info.domain_interval)
    return column


def metrics(row: Any) -> dict[str, float]:
    return {metric.name.tag: metric.value for metric in row.metric_values}


def write_study(folder: Path) -> list[Record]:
    records = [
        record("full", 0),
        record("full", 1),
        record("lsh", 0, metrics={"val_loss": 3.5, "accuracy": math.inf}),
        record("lsh", 1, "diverged", metrics={"val_loss": math.nan, "accuracy": 0.1}),
        record("windowed", 0, "failed", metrics={"val_loss": 9.0}, started_at=None, finished_at=None),
        record("windowed", 1, "interrupted", metrics={"val_loss": 9.0}),
        record("", 0, variant="", axes={"attention": "full", "activation": "relu"}),
    ]
    for each in records:
        run = folder / (each.variant or "default") / f"seed={each.seed}"
        write_hparams(run, record("wrong", 7, "failed"))  # an earlier attempt, which must leave no trace
        write_hparams(run, each)
    return records


def test_every_run_has_a_session_with_its_true_status(tmp_path: Path) -> None:
    write_study(tmp_path)
    _, rows = tab(tmp_path)
    status = {session.name: session.status for row in rows.values() for session in row.sessions}
    success, failure = api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE
    assert status == {
        "attention=full/seed=0": success,
        "attention=full/seed=1": success,
        "attention=lsh/seed=0": success,
        "attention=lsh/seed=1": failure,
        "attention=windowed/seed=0": failure,
        "attention=windowed/seed=1": failure,
        "default/seed=0": success,
    }
    (session,) = rows["attention=full/seed=0"].sessions
    assert session.end_time_secs - session.start_time_secs == 60
    assert session.start_time_secs == 1767323045


def test_a_row_is_a_run_with_its_final_metrics(tmp_path: Path) -> None:
    write_experiment(tmp_path, write_study(tmp_path))
    _, rows = tab(tmp_path)
    assert len(rows) == 7
    assert metrics(rows["attention=full/seed=1"]) == {"final/val_loss": 3.0, "final/accuracy": 0.5}
    assert metrics(rows["attention=lsh/seed=0"]) == {"final/val_loss": 3.5}  # no infinity
    assert metrics(rows["attention=lsh/seed=1"]) == {}  # neither NaN nor 0.1
    for seed, ended in enumerate(("failed", "interrupted")):
        row = rows[f"attention=windowed/seed={seed}"]
        assert (metrics(row), row.hparams["status"].string_value) == ({}, ended)


def test_runs_of_the_same_variant_and_seed_in_two_studies_are_two_rows(tmp_path: Path) -> None:
    for study in ("one", "two"):
        write_hparams(tmp_path / study / "attention=full" / "seed=0", record("full", 0, study=study))
    assert list(tab(tmp_path)[1]) == ["one/attention=full/seed=0", "two/attention=full/seed=0"]


def test_the_columns_are_what_differs_and_the_final_metrics(tmp_path: Path) -> None:
    write_experiment(tmp_path, [record("old", 0)])
    write_experiment(tmp_path, write_study(tmp_path))
    experiment, rows = tab(tmp_path)
    assert experiment.name == "which attention"
    assert {info.name: list(info.domain_discrete) for info in experiment.hparam_infos} == {
        "attention": ["full", "lsh", "windowed"],
        "activation": ["gelu", "relu"],
        "seed": [],  # numbers, from the least to the greatest
        "status": ["diverged", "failed", "interrupted", "ok"],
    }
    assert [info.name.tag for info in experiment.metric_infos] == ["final/val_loss", "final/accuracy"]
    assert rows["attention=lsh/seed=0"].hparams["attention"].string_value == "lsh"


def test_numbers_are_columns_of_numbers(tmp_path: Path) -> None:
    variants = {32: "model.d_model=32", 64: "model.d_model=64"}
    records = [record("full", 0, variant=v, config={"model": {"d_model": d}}) for d, v in variants.items()]
    write_experiment(tmp_path, records)
    for each in records:
        write_hparams(tmp_path / each.variant, each)
    experiment, rows = tab(tmp_path)
    (column,) = experiment.hparam_infos
    assert (column.name, column.type) == ("model.d_model", api_pb2.DATA_TYPE_FLOAT64)
    assert (column.domain_interval.min_value, column.domain_interval.max_value) == (32, 64)
    assert rows["model.d_model=32"].hparams["model.d_model"].number_value == 32


def test_nothing_is_a_value_among_numbers_too(tmp_path: Path) -> None:
    """A setting that is null in one run and a number in another is a column of texts, in which each is found."""
    variants = {None: "trainer.gradient_clip_val=null", 0.5: "trainer.gradient_clip_val=0.5"}
    records = [
        record("full", 0, variant=v, config={"trainer": {"gradient_clip_val": clip}}) for clip, v in variants.items()
    ]
    write_experiment(tmp_path, records)
    for each in records:
        write_hparams(tmp_path / each.variant, each)
    experiment, rows = tab(tmp_path)
    (column,) = experiment.hparam_infos
    assert (column.name, column.type) == ("trainer.gradient_clip_val", api_pb2.DATA_TYPE_STRING)
    assert list(column.domain_discrete) == []  # of which the tab would hide the row of the number
    shown = {name: row.hparams[column.name] for name, row in rows.items()}
    assert shown["trainer.gradient_clip_val=null"].string_value == "null"
    assert shown["trainer.gradient_clip_val=0.5"].number_value == 0.5


def test_hyperparameters_are_axes_overridden_settings_and_seed() -> None:
    config = {"model": {"d_model": 64}, "attention": {"tied": True, "layers": [0, 1]}}
    variant = "attention=lsh,model.d_model=64,attention.layers=[0,1],attention.tied=true,+extra.x=a b"
    assert hyperparameters(record("lsh", 4, variant=variant, config=config)) == {
        "attention": "lsh",
        "activation": "gelu",
        "model.d_model": 64,
        "attention.layers": "[0,1]",
        "attention.tied": True,
        "extra.x": "a b",
        "seed": 4,
    }


def test_hyperparameters_are_those_of_a_named_variant_and_what_was_tuned() -> None:
    variants = {"wide": {"model.d_model": 64, "attention": "lsh"}, "narrow": {"model.d_model": 32}}
    config = {"design": {"variants": variants}, "model": {"d_model": 64}, "optimizer": {"lr": 0.01}}
    for variant in ("wide", "task=text,wide"):
        found = hyperparameters(
            record("lsh", 4, variant=variant, config=config, tuning={"settings": {"optimizer.lr": 0.01}})
        )
        assert found.pop("task", "text") == "text"
        assert found == {
            "attention": "lsh",
            "activation": "gelu",
            "variant": "wide",
            "model.d_model": 64,
            "optimizer.lr": 0.01,
            "seed": 4,
        }


def test_what_a_supervisor_and_a_report_read_needs_no_torch() -> None:
    """One process for all: what is imported stays, so that the first that brings it is named."""
    code = """
import importlib, sys
for module in ("ablab.results.hparams", "ablab.results.record", "ablab.report.parallel", "ablab.report.dashboard"):
    importlib.import_module(module)
    if found := {"torch", "lightning", "tensorflow"} & set(sys.modules):
        sys.exit(f"{module} imports {found}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


COST = Cost(parameters=7, steps=2, tokens=3, wall_time_s=math.inf, peak_memory_method="x", flops_uncounted=["sin"])


def test_a_run_that_ended_well_has_final_metrics_and_costs() -> None:
    one = finished(metrics={"val_loss": 1.5, "val_x": math.nan}, mechanism={"activation/zero_share": 0.5}, cost=COST)
    assert final_metrics(one) == {
        "final/val_loss": 1.5,
        "final/activation/zero_share": 0.5,
        "cost/parameters": 7,
        "cost/steps": 2,
        "cost/tokens": 3,
    }


@pytest.mark.parametrize("status", ["diverged", "failed", "interrupted"])
def test_any_other_has_costs_only(status: str) -> None:
    one = finished(status=status, reason="boom", metrics={"val_loss": 9.0}, cost=Cost())
    assert final_metrics(one) == {"cost/steps": 0, "cost/tokens": 0}
