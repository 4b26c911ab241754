"""The choice of the baseline, and what a variant is called beside it."""

from dataclasses import replace
from typing import Any

import pytest
from said import notes_of
from synthetic import record, runs_of, study

from ablab.analysis.baseline import choose_baseline
from ablab.analysis.comparison import compare
from ablab.analysis.looks import planned_looks
from ablab.analysis.notes import EndedAtLook, RunNote, SeedNotRun
from ablab.analysis.pairing import label, outcomes, seed_notes
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.interim import InterimAnalysis


@pytest.fixture
def runs() -> Runs:
    grid = [("full", "relu"), ("lsh", "relu"), ("full", "gelu"), ("lsh", "gelu")]
    return runs_of(record(axes={"attention": attention, "activation": a}) for attention, a in grid)


def test_the_first_variant_of_the_plan_is_the_default(runs: Runs) -> None:
    assert choose_baseline(runs) == "activation=relu,attention=full"


def test_factors_not_named_keep_the_first_variants_value(runs: Runs) -> None:
    assert choose_baseline(runs, "attention=lsh") == "activation=relu,attention=lsh"
    assert choose_baseline(runs, "attention=lsh, activation=gelu") == "activation=gelu,attention=lsh"


def test_what_is_true_of_every_run_may_be_named(runs: Runs) -> None:
    assert choose_baseline(runs, "task=language,attention=lsh") == "activation=relu,attention=lsh"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("atention=full", "atention is not a factor of these runs; did you mean 'attention'?"),
        ("zzz=full", "zzz is not a factor of these runs (there are: activation, attention)"),
        ("attention=ful", "no run has attention=ful; did you mean 'full'?"),
        ("activation=zzz", "no run has activation=zzz (there are: gelu, relu)"),
        ("full", "write it as factor=option, for example activation=relu,attention=full"),
    ],
)
def test_mistakes_name_what_there_is(runs: Runs, wanted: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_baseline(runs, wanted)
    assert message in str(caught.value)


def test_a_combination_that_was_not_run() -> None:
    runs = runs_of([record(), record(axes={"attention": "lsh"}), record(axes={"activation": "gelu"})])
    with pytest.raises(UserError, match="no run of this combination"):
        choose_baseline(runs, "attention=lsh,activation=gelu")


def windowed(window: int) -> dict[str, Any]:
    return {"axes": {"attention": "windowed"}, "settings": {"attention": {"window": window}}}


def test_settings_below_a_named_axis_follow_it() -> None:
    runs = runs_of([record(), record(**windowed(8)), record(**windowed(16))])
    assert choose_baseline(runs, "attention=windowed") == "attention=windowed,attention.window=8"
    assert choose_baseline(runs, "attention=windowed,attention.window=16").endswith("window=16")


def test_labels_say_what_differs(runs: Runs) -> None:
    base = choose_baseline(runs)
    assert label(runs, "activation=relu,attention=lsh", base) == "lsh"
    assert label(runs, "activation=gelu,attention=lsh", base) == "activation=gelu,attention=lsh"


def test_a_setting_is_never_called_by_its_value_alone() -> None:
    runs = runs_of([record(settings={"optimizer": {"lr": lr}}) for lr in (0.1, 0.2)])
    assert label(runs, "optimizer.lr=0.2", "optimizer.lr=0.1") == "optimizer.lr=0.2"


def test_what_a_run_notes_of_itself_is_known() -> None:
    runs = runs_of([record(1), record(2, notes=["last.ckpt is damaged: went on from previous.ckpt"])])
    found = seed_notes(outcomes(runs, "language", "default", "val_loss"), "val_loss")
    assert found == [RunNote(2, "last.ckpt is damaged: went on from previous.ckpt")]


def test_what_runs_of_several_seeds_say_alike_is_said_once() -> None:
    runs = runs_of(study({"relu": [1.0, 1.2, 1.4], "gelu": [2.0, 2.3, 2.4]}))
    for item in runs.records[3:]:
        item.notes.append("the position has nothing to do")
    runs.records[4].notes.append("went on")
    (compared,) = compare(runs).items
    told = [note for note in notes_of(compared) if note.startswith("seed")]
    assert told == ["seeds 1, 2, 3: the position has nothing to do.", "seed 2: went on."]


def test_a_variant_whose_seeds_ended_with_a_look_is_compared_there() -> None:
    """With the seeds that it was given: the baseline's later ones are no gaps, unless nobody looked in between."""
    values = {"relu": [1.0, 1.2, 1.4, 1.1, float("nan")], "gelu": [2.0, 2.3, 2.4], "silu": [1.1, 1.2, 1.5, 1.0, 1.3]}
    runs = runs_of(study(values))
    looks = (InterimAnalysis((1, 2, 3), "2026"), InterimAnalysis((1, 2, 3, 4, 5), "2026"))
    gelu, silu = compare(replace(runs, interim_analyses=looks)).items
    assert gelu.notes[0] == EndedAtLook(3, 5)
    assert (gelu.seeds, gelu.planned, gelu.baseline_ended, gelu.baseline_diverged) == ((1, 2, 3), 3, 3, 0)
    assert (silu.seeds, silu.planned, silu.baseline_diverged) == ((1, 2, 3, 4), 5, 1)
    gelu, _ = compare(runs).items
    assert [note for note in gelu.notes if isinstance(note, SeedNotRun)] == [SeedNotRun(4, False), SeedNotRun(5, False)]


def test_on_a_suite_seeds_count_up_to_the_look_at_which_a_task_had_enough() -> None:
    values = {"relu": [1.0, 1.2, 1.4, 1.1, 1.3], "gelu": [2.0, 2.3, 2.4, 2.1, 2.2]}
    records = [replace(each, axes={**each.axes, "task": task}) for task in ("one", "two") for each in study(values)]
    kept = [
        each for each in records if each.axes["task"] == "one" or each.axes["activation"] == "relu" or each.seed < 4
    ]
    looks = (InterimAnalysis((1, 2, 3), "2026"), InterimAnalysis((1, 2, 3, 4, 5), "2026"))
    [item] = compare(replace(runs_of(kept), interim_analyses=looks)).suite
    assert (item.seeds, item.planned) == ((1, 2, 3), 3)
    assert item.notes[0] == EndedAtLook(3, 5)


def test_a_variant_without_further_seeds_is_judged_at_the_level_of_its_own_look() -> None:
    """O'Brien and Fleming leave much to the last look: three pairs must not be held against that."""
    values = {"relu": [1.0, 1.2, 1.4, 1.1, 1.3], "gelu": [1.43, 1.85, 1.95], "silu": [1.1, 1.2, 1.5, 1.0, 1.3]}
    plan = {"looks": [3, 5], "max": 5, "spending": "obrien_fleming"}
    runs = runs_of([replace(each, planned_looks=plan) for each in study(values)])
    gelu, silu = compare(runs).items
    first, last = planned_looks((3, 5), "obrien_fleming").levels()
    assert (gelu.level, silu.level) == (first, last)
    assert gelu.estimate is not None
    assert first < gelu.estimate.p_value < last / 2, "the test shows nothing"
    assert gelu.verdict == "UNRESOLVED"
