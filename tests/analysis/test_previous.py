"""Each variant beside the one before it (`comparison.baseline=previous`): pairs, looks, seeds, curves and budgets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from curved import Curved
from said import notes_of
from synthetic import CORPUS, cost, record, runs_of, study

from ablab.analysis.baseline import PREVIOUS, Baselines, choose_baselines
from ablab.analysis.comparison import compare
from ablab.analysis.curves import difference
from ablab.analysis.decisions import decide
from ablab.analysis.notes import BaselineSeed, EndedAtLook
from ablab.analysis.pareto import unequal_budgets
from ablab.analysis.ranking import rank
from ablab.analysis.selection import compare_selected
from ablab.analysis.study_notes import BaselineNotRun, InSteps
from ablab.analysis.time_to_target import time_to_target
from ablab.analysis.verdicts import Verdict
from ablab.config import ComparisonConfig
from ablab.config.seeds import SeedsConfig
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.interim import InterimAnalysis
from ablab.results.record import Record

VALUES = {
    "relu": [1.0, 1.2, 1.4, 1.1, 1.3],
    "gelu": [1.4, 1.63, 1.8, 1.52, 1.71],
    "silu": [1.41, 1.6, 1.83, 1.5, 1.72],
    "swiglu": [0.9, 1.12, 1.3, 1.01, 1.2],
}
RELU, GELU, SILU, SWIGLU = (f"activation={name}" for name in VALUES)
STEPS = Baselines(RELU, {GELU: RELU, SILU: GELU, SWIGLU: SILU})


@pytest.fixture
def runs() -> Runs:
    return runs_of(study(VALUES))


def declaring(runs: Runs) -> Runs:
    comparison = {"baseline": PREVIOUS}
    return runs_of([replace(each, config={**each.config, "comparison": comparison}) for each in runs.records])


def test_what_follows_on_other_data_is_not_held_against_what_came_before(runs: Runs) -> None:
    """Each of them is compared with the one before it, whose data it has: none is ranked beside the first."""
    for each in runs.records:
        if each.axes["activation"] != "relu":
            each.corpus = replace(CORPUS, sha256="cd" * 32)
    found = compare(runs, PREVIOUS)
    assert [str(item.verdict) for item in found.items] == ["NOT COMPARABLE", "UNRESOLVED", "BETTER"]
    assert found.apart == {("language", variant) for variant in (GELU, SILU, SWIGLU)}
    assert not rank(runs, found, {"language": "min"}).better["language"]
    assert compare(runs, SWIGLU).apart == {("language", RELU)}


def test_each_is_paired_with_the_one_before_it_in_the_plan(runs: Runs) -> None:
    found = compare(runs, PREVIOUS)
    assert found.baselines == STEPS
    table = np.array(list(VALUES.values()))
    for item, own, base in zip(found.items, table[1:], table, strict=False):
        assert item.differences == pytest.approx(tuple(own - base))
        assert item.baseline_values == pytest.approx(tuple(base))
    assert [item.baseline for item in found.items] == [RELU, GELU, SILU]
    assert [str(item.verdict) for item in found.items] == ["WORSE", "UNRESOLVED", "BETTER"]
    assert InSteps(RELU, sizes=False) in found.notes


def test_it_can_be_declared_and_a_command_may_ask_for_another(runs: Runs) -> None:
    declared = declaring(runs)
    assert choose_baselines(declared) == STEPS
    assert [item.baseline for item in compare(declared, "activation=gelu").items] == [GELU] * 3


def test_a_variant_of_that_name_is_a_variant() -> None:
    design = {"variants": {"new": {"activation": "relu"}, PREVIOUS: {"activation": "gelu"}}}
    named = zip(("new", PREVIOUS), study({"relu": [1.0], "gelu": [1.1]}), strict=True)
    runs = runs_of([replace(each, variant=name, config={**each.config, "design": design}) for name, each in named])
    assert choose_baselines(runs, PREVIOUS) == Baselines(PREVIOUS)


def test_labels_say_what_each_adds() -> None:
    grid = [("full", "relu"), ("full", "gelu"), ("lsh", "gelu")]
    runs = runs_of(record(s, 1 + s / 9, axes={"attention": a, "activation": b}) for a, b in grid for s in (1, 2, 3))
    assert [item.label for item in compare(runs, PREVIOUS).items] == ["gelu", "lsh"]


def test_a_variant_that_went_on_for_the_next_one_is_judged_where_the_one_before_it_ended() -> None:
    values = {"relu": VALUES["relu"][:3], "gelu": VALUES["gelu"], "silu": VALUES["silu"], "glu": [2.0, 2.2, 2.5]}
    looks = (InterimAnalysis((1, 2, 3), "2026"), InterimAnalysis((1, 2, 3, 4, 5), "2026"))
    runs = replace(runs_of(study(values)), interim_analyses=looks)
    gelu, silu, glu = compare(runs, PREVIOUS).items
    assert (gelu.seeds, gelu.planned) == ((1, 2, 3), 3)
    assert gelu.notes[0] == EndedAtLook(3, 5, of_baseline=True)
    assert silu.seeds == (1, 2, 3, 4, 5)
    assert glu.notes[0] == EndedAtLook(3, 5)
    upon_the_first, _, _ = compare(runs).items
    assert EndedAtLook(3, 5, of_baseline=True) not in upon_the_first.notes, "a baseline of all ends with the last"


def test_seeds_go_on_with_those_of_the_one_before(runs: Runs) -> None:
    declared = declaring(runs)
    found = decide(declared, SeedsConfig(stop="resolved"), ComparisonConfig(baseline=PREVIOUS))
    assert [(one.label, one.how) for one in found] == [("gelu", "resolved"), ("silu", "open"), ("swiglu", "resolved")]
    assert [one.baselines for one in found] == [(("language", base),) for base in (RELU, GELU, SILU)]


def test_a_filter_shows_a_variant_and_the_one_before_it(runs: Runs) -> None:
    comparisons, shown = compare_selected(runs, ["activation=silu"], baseline=PREVIOUS)
    assert [item.variant for item in comparisons.items] == [SILU]
    assert shown.variants == [GELU, SILU]


def test_curves_budgets_and_times_are_beside_the_one_before_it() -> None:
    made = Curved()
    shifts = {"relu": 0.0, "gelu": 1.0, "silu": 3.0, "swiglu": 3.5}
    for option, shift in shifts.items():
        for seed in (1, 2, 3):
            made.add(option, seed, [10 + shift - step / 10 for step in range(10, 50, 10)])
    bands = difference(made.runs, "language", "val_loss", STEPS, reader=made.reader)
    assert {name: band.mean.tolist() for name, band in bands.items()} == {
        GELU: [1.0] * 4,
        SILU: [2.0] * 4,
        SWIGLU: [0.5] * 4,
    }
    found = time_to_target(made.runs, "language", "val_loss", STEPS, target=9.5, reader=made.reader)
    factors = {item.variant: item.factor for item in found.items}  # relu and gelu are there before the first evaluation
    assert factors == {RELU: None, GELU: None, SILU: pytest.approx(35 / 15), SWIGLU: pytest.approx(40 / 35)}
    records = study({name: values[:2] for name, values in VALUES.items()})
    for item in records[4:]:  # silu and swiglu
        item.cost = cost(item, tokens=2 * item.cost.tokens)
    assert list(unequal_budgets(runs_of(records), "language", STEPS)) == [SILU]
    assert list(unequal_budgets(runs_of(records), "language", Baselines(RELU))) == [SILU, SWIGLU]


def planned(without: Collection[tuple[str, int, str]] = (), tasks: Collection[str] = ("one", "two")) -> list[Record]:
    """Records as a plan has them, but for those that have not ended or that it leaves out: (task, seed, variant)."""
    made = [
        record(seed, VALUES[name][seed], axes={"task": task, "activation": name})
        for task in tasks
        for seed in range(4)
        for name in VALUES
    ]
    for index, each in enumerate(made):
        each.index = index
    return [each for each in made if (each.axes["task"], each.seed, each.axes["activation"]) not in without]


@pytest.mark.parametrize(
    "lost", [{("one", 0, "gelu")}, {("one", 0, "relu"), ("two", 3, "silu")}, {("one", 1, "swiglu")}]
)
def test_the_order_is_that_of_the_plan_whichever_runs_there_are(lost: set[tuple[str, int, str]]) -> None:
    assert choose_baselines(runs_of(planned(lost)), PREVIOUS) == STEPS


def test_a_task_that_some_variants_were_not_run_on_says_so_and_the_others_are_compared() -> None:
    without = {("two", seed, "gelu") for seed in range(4)}
    found = compare(runs_of(planned(without)), PREVIOUS)
    assert found.baselines == STEPS
    assert BaselineNotRun("two", GELU) in found.notes
    on_two = {item.variant: item.verdict for item in found.of_task("two")}
    assert on_two == {SILU: Verdict.NO_PAIRS, SWIGLU: Verdict.BETTER}
    assert {item.variant: bool(item.interval) for item in found.suite} == {GELU: False, SILU: False, SWIGLU: True}


def test_where_the_first_was_not_run_later_steps_still_have_their_suite() -> None:
    found = compare(runs_of(planned({("two", seed, "relu") for seed in range(4)})), PREVIOUS)
    assert found.no_suite is None
    assert {item.variant: bool(item.interval) for item in found.suite} == {GELU: False, SILU: True, SWIGLU: True}


def test_runs_of_several_plans_have_no_one_before_them() -> None:
    other = [replace(each, study="other") for each in planned()]
    with pytest.raises(UserError, match=r"runs of several studies \(demo, other\)"):
        compare(runs_of([*planned(), *other]), PREVIOUS)
    backwards = [replace(each, index=100 - (each.index or 0)) for each in planned(tasks=["two"])]
    with pytest.raises(UserError, match="of several plans, whose variants have no order in common"):
        compare(runs_of([*planned(tasks=["one"]), *backwards]), PREVIOUS)


def test_seeds_that_the_one_before_has_no_value_for_are_named() -> None:
    records = study({"relu": VALUES["relu"], "gelu": [1.4, float("nan"), 1.8, 1.52, 1.71], "silu": VALUES["silu"]})
    gelu, silu = compare(runs_of(records), PREVIOUS).items
    assert [type(note) for note in silu.notes if isinstance(note, BaselineSeed)] == [BaselineSeed]
    assert "baseline seed 2: diverged (train_loss became nan at step 7)." in notes_of(silu)
    assert not any(isinstance(note, BaselineSeed) for note in gelu.notes)


def test_what_two_steps_add_alike_is_told_apart() -> None:
    grid = [("full", "relu"), ("full", "gelu"), ("lsh", "relu"), ("lsh", "gelu")]
    runs = runs_of(record(s, 1 + s / 9, axes={"attention": a, "activation": b}) for a, b in grid for s in (1, 2, 3))
    labels = [item.label for item in compare(runs, PREVIOUS).items]
    assert labels == [
        "activation=gelu,attention=full",
        "activation=relu,attention=lsh",
        "activation=gelu,attention=lsh",
    ]
