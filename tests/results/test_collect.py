"""Many records in one table: what counts as a factor, a variant and a task."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from synthetic import odd_runs, record, runs_of, study, write_runs

from ablab.analysis.pairing import label, short_name
from ablab.errors import UserError
from ablab.results.collect import Runs, collect
from ablab.results.record import Record
from ablab.results.store import write_record


def test_the_table_has_a_row_per_run_in_the_order_of_the_plan(tmp_path: Path) -> None:
    write_runs(tmp_path, study({"relu": [1.0, 1.1], "gelu": [0.9] * 10}))  # 12 folders: "10" sorts before "2"
    table = collect([tmp_path]).table
    assert [Path(path).name for path in table["path"]] == [str(index) for index in range(12)]
    assert list(table["variant"][:3]) == ["activation=relu", "activation=relu", "activation=gelu"]
    assert list(table["val_loss"][:4]) == [1.0, 1.1, 0.9, 0.9]


def test_a_run_of_no_sweep_comes_after_those_of_a_plan(tmp_path: Path) -> None:
    write_runs(tmp_path / "b", study({"relu": [1.0], "gelu": [0.9]}))
    write_record(tmp_path / "a", record(1, axes={"activation": "silu"}))
    assert collect([tmp_path]).variants == ["activation=relu", "activation=gelu", "activation=silu"]


def test_a_run_named_twice_is_one_run(tmp_path: Path) -> None:
    write_runs(tmp_path, study({"relu": [1.0, 1.1]}))
    assert len(collect([tmp_path, tmp_path / "0", tmp_path]).records) == 2


def test_a_run_under_another_name_is_one_run(tmp_path: Path) -> None:
    write_runs(tmp_path / "study", study({"relu": [1.0, 1.1]}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "record.json").symlink_to(tmp_path / "study" / "0" / "record.json")
    assert len(collect([tmp_path / "study", tmp_path / "other"]).records) == 2


@pytest.mark.parametrize("outside", [False, True])
def test_a_variant_whose_folder_is_a_link_is_followed_and_counted_once(tmp_path: Path, outside: bool) -> None:
    here, there = tmp_path / "study", tmp_path / ("store" if outside else "study/.store")
    write_record(here / "a" / "seed=1", record(1))
    write_record(there / "b" / "seed=1", record(1, axes={"attention": "lsh"}))
    (here / "b").symlink_to(there / "b")
    (here / "again").symlink_to(here / "a")
    (here / "round").symlink_to(here)
    (here / "up").symlink_to(tmp_path)
    (here / "nowhere").symlink_to(tmp_path / "gone")
    runs = collect([here])
    assert (len(runs.records), len(runs.variants)) == (2, 2)


def test_a_number_of_400_digits_is_damage(tmp_path: Path) -> None:
    path = write_record(tmp_path, record(1, settings={"model": {"d_model": 64}}))
    path.write_text(path.read_text().replace('"d_model": 64', f'"d_model": {"9" * 400}'))
    with pytest.raises(UserError, match="damaged JSON: a number of"):
        collect([tmp_path])


def test_a_record_that_has_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "record.json").symlink_to(tmp_path / "gone.json")
    with pytest.raises(UserError, match=r"record\.json: cannot be read"):
        collect([tmp_path])


def test_runs_that_choose_a_rate_or_measure_a_speed_are_not_compared(tmp_path: Path) -> None:
    for folder in ("tune", "pilot", "deep/tune", "kept"):
        write_runs(tmp_path / folder, [record()])
    assert collect([tmp_path]).paths == [str(tmp_path / "kept" / "0")]


@pytest.mark.parametrize("case", odd_runs())
def test_what_is_looked_up_is_what_the_table_says(case: str) -> None:
    runs = runs_of(odd_runs()[case])
    table = runs.table
    assert runs.tasks == list(dict.fromkeys(table["task"]))
    assert runs.variants == list(dict.fromkeys(table["variant"]))
    assert runs.paths == list(table["path"])
    assert list(runs.places) == list(dict.fromkeys(zip(table["task"], table["variant"], strict=True)))
    for (task, variant), places in runs.places.items():
        assert places == list(table.index[(table["task"] == task) & (table["variant"] == variant)])
        row = table[table["variant"] == variant].iloc[0]
        assert runs.choices[variant] == {factor: row[factor] for factor in runs.factors}
    for factor in runs.factors:
        assert runs.options[factor] == [value for value in dict.fromkeys(table[factor]) if value]


def test_factors_are_the_axes_and_settings_that_differ() -> None:
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


def test_a_setting_that_some_runs_lack_is_a_factor() -> None:
    """As `+trainer.clip=1` on the command line makes one: two such studies are not one with each seed run twice."""
    clipped = {"trainer": {"max_steps": 5, "clip": 1.0}}
    runs = runs_of([record(), record(settings={"trainer": {"max_steps": 5}}), record(settings=clipped)])
    assert runs.factors == ["trainer.clip", "trainer.max_steps"]
    assert len(runs.variants) == 3
    windowed = [record(axes={"attention": "windowed"}, settings={"attention": {"window": 8}}), record()]
    assert runs_of(windowed).factors == ["attention"]  # the window is of one option, and says nothing more


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"trainer": {"max_steps": 7}}, {"budget": {"match": "flops", "changed": ["trainer.max_steps"]}}),
        ({"optimizer": {"lr": 0.5}}, {"tuning": {"chosen": 0.5}}),
    ],
    ids=["budget", "tuning"],
)
def test_what_a_budget_or_the_tuning_of_one_run_brought_about_is_no_factor(
    settings: dict[str, Any], changes: dict[str, Any]
) -> None:
    base = {"trainer": {"max_steps": 5}, "optimizer": {"lr": 0.1}}
    runs = [record(settings=base), record(axes={"activation": "gelu"}, settings=base | settings, **changes)]
    assert runs_of(runs).factors == ["activation"]


def test_a_setting_that_some_runs_of_a_task_lack_makes_it_another_task() -> None:
    runs = runs_of(record(settings={"task": {"length": 8, **extra}}) for extra in ({}, {"noise": 0.1}))
    assert runs.tasks == ["language", "language,task.noise=0.1"]


def test_a_single_variant_has_no_factors() -> None:
    runs = runs_of([record(1), record(2)])
    assert runs.factors == []
    assert set(runs.table["variant"]) == {"default"}


def test_settings_of_a_task_make_it_another_task() -> None:
    runs = runs_of(record(settings={"task": {"length": length}}) for length in (32, 64))
    assert list(runs.table["task"]) == ["language,task.length=32", "language,task.length=64"]
    assert runs.factors == []


def test_what_is_compared_within_tells_tasks_apart_and_is_no_factor() -> None:
    def runs(*declared: Any) -> Runs:
        made = []
        for depth in (4, 8):
            for attention in ("full", "lsh"):
                for within in declared:
                    settings = {"model": {"n_layers": depth}, "comparison": {"within": within}}
                    made.append(record(axes={"attention": attention}, settings=settings))
        return runs_of(made)

    assert runs(["model.n_layers"]).tasks == ["language,model.n_layers=4", "language,model.n_layers=8"]
    assert runs(["model.n_layers"]).factors == ["attention"]
    assert runs(["attention"]).tasks == ["language,attention=full", "language,attention=lsh"]
    assert runs(["attention"]).factors == ["model.n_layers"]
    both = ["model.n_layers", "attention"]
    assert len(runs(both).tasks) == 4
    assert runs(both).variants == ["default"]
    nothing: list[list[Any]] = [[[]], [["model.d_model"]], [None], ["model.n_layers"], [["attention"], []]]
    for declared in nothing:
        assert runs(*declared).tasks == ["language"]
        assert runs(*declared).factors == ["attention", "model.n_layers"]


def test_what_differs_between_tasks_alone_is_no_factor() -> None:
    """Steps go with the task here; the learning rate varies within one of them, and is a factor of both."""
    runs = runs_of(
        record(axes={"task": task}, settings={"trainer": {"max_steps": steps}, "optimizer": {"lr": lr}})
        for task, steps, lr in (("recall", 10, 0.1), ("recall", 10, 0.2), ("text", 20, 0.1))
    )
    assert runs.factors == ["optimizer.lr"]
    assert list(runs.table["variant"]) == ["optimizer.lr=0.1", "optimizer.lr=0.2", "optimizer.lr=0.1"]


def of_recipe(recipe: str | None, norm: str, *overrides: str, lr: float = 0.1, layers: int = 4) -> Record:
    asked = [*([f"recipe={recipe}"] if recipe else []), *overrides]
    settings = {"overrides": asked, "optimizer": {"lr": lr}, "model": {"n_layers": layers}}
    return record(axes={"norm": norm}, settings=settings)


@pytest.mark.parametrize(
    ("records", "factors", "labels"),
    [
        ([of_recipe("a", "x"), of_recipe("b", "y")], ["recipe"], ["recipe=a", "recipe=b"]),
        (
            [of_recipe("a", "x"), of_recipe("a", "x", layers=2)],
            ["model.n_layers"],
            ["model.n_layers=4", "model.n_layers=2"],
        ),
        ([of_recipe("a", "x"), of_recipe(None, "y")], ["recipe"], ["recipe=a", "default"]),
        (  # asked for beside the recipe
            [of_recipe("a", "z", "norm=z"), of_recipe("b", "y")],
            ["recipe", "norm"],
            ["recipe=a,norm=z", "recipe=b,norm=y"],
        ),
        (  # swept with it
            [of_recipe("a", "x"), of_recipe("a", "z"), of_recipe("b", "y")],
            ["recipe", "norm"],
            ["recipe=a,norm=x", "recipe=a,norm=z", "recipe=b,norm=y"],
        ),
        (  # of no model: nothing is hidden
            [of_recipe("a", "x"), of_recipe("b", "y", lr=0.2)],
            ["recipe", "optimizer.lr"],
            ["recipe=a,optimizer.lr=0.1", "recipe=b,optimizer.lr=0.2"],
        ),
    ],
)
def test_recipes_are_told_apart_by_their_names(records: list[Record], factors: list[str], labels: list[str]) -> None:
    runs = runs_of(records)
    assert (runs.factors, list(runs.table["variant"])) == (factors, labels)


def test_variants_that_a_study_names_are_known_by_their_names() -> None:
    named: dict[str, Any] = {"design": {"variants": {"base": {}, "wide": {}}}}
    runs = runs_of(
        record(variant=variant, settings={**named, "optimizer": {"lr": lr}})
        for variant, lr in (("base", 0.1), ("task=text,wide", 0.2), ("task=text,baseline", 0.3))
    )
    assert list(runs.table["variant"]) == ["base", "wide", "optimizer.lr=0.3"]


def test_a_named_variant_has_the_choices_of_its_first_run() -> None:
    """Its settings may differ between tasks."""
    named: dict[str, Any] = {"design": {"variants": {"base": {}, "wide": {}}}}
    runs = runs_of(
        record(axes={"task": task}, variant=name, settings={**named, "optimizer": {"lr": lr}})
        for task, name, lr in (("recall", "base", 0.1), ("recall", "wide", 0.2), ("text", "wide", 0.3))
    )
    assert runs.choices == {"base": {"optimizer.lr": "0.1"}, "wide": {"optimizer.lr": "0.2"}}


def test_folders_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no runs here \(no record.json"):
        collect([tmp_path])
    with pytest.raises(UserError, match="no such folder"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="xxx: no such folder"):  # a name that no file system takes
        collect([tmp_path / ("x" * 300)])
    write_runs(tmp_path / "some", [record()])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none: no runs here"):  # one of those that are named, too
        collect([tmp_path / "some", tmp_path / "none"])


def test_a_folder_that_cannot_be_read_is_not_taken_for_one_without_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_runs(tmp_path, [record(1), record(2)])
    scan = os.scandir

    def locked(path: str) -> object:  # for root no folder is
        if Path(path).name == "1":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(UserError, match=r"1: cannot be read \(Permission denied\), and may hold runs"):
        collect([tmp_path])


def test_a_setting_that_an_older_version_did_not_know_tells_no_variants_apart() -> None:
    old, new = record(1), record(2, settings={"model": {"d_model": 64, "norm": "rms"}})
    old.versions, new.versions = {"ablab": "0.1.0"}, {"ablab": "0.2.0"}
    assert set(runs_of([old, new]).table["variant"]) == {"default"}
    new.versions = old.versions
    assert len(set(runs_of([old, new]).table["variant"])) == 2


def test_a_value_is_printed_in_one_way() -> None:
    """As plans print it, whether a config holds it as 1 or as 1.0."""
    for value, other in ((1, 0.5), (1.0, 0.5)):
        runs = runs_of([record(settings={"trainer": {"gradient_clip_val": each}}) for each in (value, other)])
        assert runs.variants == ["trainer.gradient_clip_val=1", "trainer.gradient_clip_val=0.5"]
    runs = runs_of([record(settings={"optimizer": {"betas": each, "fused": True}}) for each in ([0.9, 1.0], [0.5, 1])])
    assert runs.variants == ["optimizer.betas=[0.9,1]", "optimizer.betas=[0.5,1]"]


def test_an_option_within_an_option_is_a_factor_and_its_settings_are_not() -> None:
    """As of `-m attention@attention.core=full,windowed`, where an option of one's own holds another one as its core."""

    def run(option: str, seed: int, *more: str, **core: object) -> Record:
        config = {"attention": {"gate": 1, "core": {"dropout": 0.0, **core}}}
        asked = [f"attention@attention.core={option}", *more]
        return record(seed, axes={"attention": "mine"}, settings={**config, "overrides": asked})

    two = [each for seed in (1, 2) for each in (run("full", seed, sinks=False), run("windowed", seed, window=32))]
    runs = runs_of(two)
    assert runs.factors == ["attention@attention.core"]
    assert runs.variants == ["attention@attention.core=full", "attention@attention.core=windowed"]
    assert label(runs, runs.variants[1], runs.variants[0]) == "windowed"

    more = runs_of([*two, run("windowed", 1, "attention.core.window=16", window=16)])  # of one option two values
    assert more.factors == ["attention@attention.core", "attention.core.window"]


def test_a_short_name_is_what_the_baseline_has_not() -> None:
    axes = [(one, other) for one in ("relu", "gelu") for other in ("full", "lsh")]
    runs = runs_of([record(axes={"activation": one, "attention": other}) for one, other in axes])
    base = runs.variants[0]
    assert [short_name(runs, variant, base) for variant in runs.variants] == [
        "activation=relu,attention=full",
        "attention=lsh",
        "activation=gelu",
        "activation=gelu,attention=lsh",
    ]
