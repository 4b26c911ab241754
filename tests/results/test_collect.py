"""Many records in one table: what counts as a factor, a variant and a task."""

from pathlib import Path

import pytest
from synthetic import record, runs_of, study, write_runs

from ablab.errors import UserError
from ablab.results.collect import collect


def test_the_table_has_a_row_per_run_in_the_order_of_the_plan(tmp_path: Path):
    write_runs(tmp_path, study({"relu": [1.0, 1.1], "gelu": [0.9] * 10}))  # 12 folders: "10" sorts before "2"
    table = collect([tmp_path]).table
    assert [Path(path).name for path in table["path"]] == [str(index) for index in range(12)]
    assert list(table["variant"][:3]) == ["activation=relu", "activation=relu", "activation=gelu"]
    assert list(table["val_loss"][:4]) == [1.0, 1.1, 0.9, 0.9]


def test_a_run_named_twice_is_one_run(tmp_path: Path):
    write_runs(tmp_path, study({"relu": [1.0, 1.1]}))
    assert len(collect([tmp_path, tmp_path / "0", tmp_path]).records) == 2


def test_factors_are_the_axes_and_settings_that_differ():
    runs = runs_of(
        [
            record(settings={"optimizer": {"lr": 0.1}}),
            record(settings={"optimizer": {"lr": 0.2}}),
            record(axes={"attention": "lsh"}, settings={"optimizer": {"lr": 0.1}, "attention": {"buckets": 4}}),
        ]
    )
    assert runs.factors == ["attention", "optimizer.lr"]
    assert list(runs.table["variant"]) == [
        "attention=full,optimizer.lr=0.1",
        "attention=full,optimizer.lr=0.2",
        "attention=lsh,optimizer.lr=0.1",
    ]


def test_a_single_variant_has_no_factors():
    runs = runs_of([record(1), record(2)])
    assert runs.factors == []
    assert set(runs.table["variant"]) == {"default"}


def test_settings_of_a_task_make_it_another_task():
    runs = runs_of(record(settings={"task": {"length": length}}) for length in (32, 64))
    assert list(runs.table["task"]) == ["language,task.length=32", "language,task.length=64"]
    assert runs.factors == []


def test_what_differs_between_tasks_alone_is_no_factor():
    """Steps go with the task here; the learning rate varies within one of them, and is a factor of both."""
    runs = runs_of(
        record(axes={"task": task}, settings={"trainer": {"max_steps": steps}, "optimizer": {"lr": lr}})
        for task, steps, lr in (("recall", 10, 0.1), ("recall", 10, 0.2), ("text", 20, 0.1))
    )
    assert runs.factors == ["optimizer.lr"]
    assert list(runs.table["variant"]) == ["optimizer.lr=0.1", "optimizer.lr=0.2", "optimizer.lr=0.1"]


def test_variants_that_a_study_names_are_known_by_their_names():
    named = {"design": {"variants": {"base": {}, "wide": {}}}}
    runs = runs_of(
        record(variant=variant, settings={**named, "optimizer": {"lr": lr}})
        for variant, lr in (("base", 0.1), ("task=text,wide", 0.2))
    )
    assert list(runs.table["variant"]) == ["base", "wide"]


def test_folders_without_runs(tmp_path: Path):
    with pytest.raises(UserError, match=r"no runs here \(no record.json"):
        collect([tmp_path])
    with pytest.raises(UserError, match="no such folder"):
        collect([tmp_path / "nowhere"])
