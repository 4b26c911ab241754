"""The noise of choosing goes into intervals: none where a choice is certain or free, and coverage under repetition."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import sentence_of
from synthetic import runs_of
from tuned import Points, told, tuned_study

from ablab.analysis.choice_noise import choice_of, joint
from ablab.analysis.comparison import compare
from ablab.analysis.estimates import paired
from ablab.analysis.power import MOST_SEEDS, seeds_for
from ablab.analysis.verdicts import Verdict
from ablab.results.record import Record

FOLDER = Path(__file__).parents[2] / "experiments" / "tuning"
NOISE = [-0.10, 0.12, 0.01, -0.05, 0.08]
STEEP: Points = {1e-3: [9.0, 9.1], 3e-3: [1.0, 1.1], 1e-2: [8.0, 8.1]}
CLOSE: Points = {1e-3: [1.4, 1.5], 3e-3: [1.00, 1.10], 1e-2: [1.12, 1.02]}


@pytest.fixture(scope="module")
def simulated() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.setattr(sys, "modules", dict(sys.modules))
        sys.modules.pop("simulated", None)
        yield importlib.import_module("simulated")


def error_of(records: list[Record], metric: str = "val_loss") -> float | None:
    half = len(records) // 2
    return choice_of([(1.0, records[half:]), (-1.0, records[:half])], metric, NOISE)


def test_intervals_of_tuned_studies_hold_the_effect(simulated: Any) -> None:
    """Where the choice is uncertain and matters, those of paired t alone hold it far too seldom."""
    kinds = [simulated.Kind(5, 2, 10, 0.5), simulated.Kind(7, 2, 10, 0.2), simulated.Kind(3, 3, 5, 0.5)]
    found = [simulated.coverage(kind, 400) for kind in kinds]
    assert found[0].plain < 0.90
    assert found[1].plain < 0.91
    assert all(0.92 < each.nested < 0.985 for each in found)
    assert 0.93 < np.mean([each.nested for each in found]) < 0.975


def test_a_certain_choice_adds_nothing() -> None:
    assert error_of(tuned_study(NOISE, told(STEEP, 3e-3), told(STEEP, 3e-3))) == pytest.approx(0.0, abs=1e-6)


def test_an_uncertain_choice_widens_everything_that_rests_on_the_standard_error() -> None:
    records = tuned_study(NOISE, told(CLOSE, 3e-3), told(CLOSE, 3e-3))
    choice = error_of(records)
    assert choice is not None
    assert choice > 0.005
    (item,) = compare(runs_of(records)).items
    (plain,) = compare(runs_of(tuned_study(NOISE, None, None))).items
    assert item.estimate is not None
    assert plain.estimate is not None
    assert item.choice == pytest.approx(choice)
    assert item.estimate.standard_error == pytest.approx(np.hypot(plain.estimate.standard_error, choice))
    assert item.estimate.sd == pytest.approx(plain.estimate.sd)
    assert item.interval is not None
    assert item.interval == pytest.approx(item.estimate.interval())
    assert item.p_raw is not None
    assert plain.p_raw is not None
    assert item.p_raw > plain.p_raw


def test_three_seeds_hold_it_too() -> None:
    (item,) = compare(runs_of(tuned_study(NOISE[:3], told(CLOSE, 3e-3), told(CLOSE, 3e-3)))).items
    (plain,) = compare(runs_of(tuned_study(NOISE[:3], None, None))).items
    assert item.estimate is not None
    assert plain.estimate is not None
    assert item.estimate.standard_error > plain.estimate.standard_error


@pytest.mark.parametrize("seeds", [3, 4])
def test_ties_claim_nothing_whatever_choosing_adds(seeds: int) -> None:
    records = tuned_study([0.5] * seeds, told(CLOSE, 3e-3), told(CLOSE, 3e-3))
    (item,) = compare(runs_of(records), margin=2.0, margin_declared=True).items
    assert item.choice
    assert item.verdict is Verdict.UNRESOLVED
    assert item.p_adjusted == 2 ** (1 - seeds)
    assert "Detectable" not in sentence_of(item)


def test_nothing_is_added_where_nothing_was_tuned_or_nothing_is_known() -> None:
    assert error_of(tuned_study(NOISE, None, None)) is None
    earlier = {"chosen": 3e-3, "tried": [[1e-3, 1.4], [3e-3, 1.05]], "seeds": [1000, 1001]}
    assert error_of(tuned_study(NOISE, earlier, earlier)) is None
    records = tuned_study(NOISE, told(CLOSE, 3e-3), told(CLOSE, 3e-3))
    assert error_of(records, "flops_total") is None
    assert error_of(records, "attention/entropy") is None


def test_a_point_that_did_not_end_well_is_never_chosen() -> None:
    failed: Points = {**CLOSE, 3e-2: [None, 0.5]}
    with_it, without = (error_of(tuned_study(NOISE, told(each, 3e-3), told(each, 3e-3))) for each in (failed, CLOSE))
    assert with_it == without


def test_the_same_records_give_the_same_interval() -> None:
    first, second = (error_of(tuned_study(NOISE, told(CLOSE, 3e-3), told(CLOSE, 3e-3))) for _ in range(2))
    assert first == second


def test_seeds_do_not_buy_what_tuning_leaves_open() -> None:
    assert seeds_for(0.1, 0.1) < 20
    assert seeds_for(0.1, 0.1, choice=0.02) < 20
    assert seeds_for(0.1, 0.1, choice=0.05) == MOST_SEEDS
    assert paired([0.1, 0.1, 0.1, 0.1], 0.05).standard_error == pytest.approx(0.05)


def over(*tasks: tuple[str, dict[str, Any]]) -> list[Record]:
    """The study of `CLOSE` on several tasks, each with the tuning of its variant."""
    found = []
    for task, of_variant in tasks:
        records = tuned_study(NOISE, told(CLOSE, 3e-3), of_variant)
        for record in records:
            record.axes = {**record.axes, "task": task}
        found += records
    return found


def test_one_tuning_for_several_is_off_for_all_of_them() -> None:
    """Errors of the choice that are the same do not average out over tasks; those of tunings of their own do."""
    same, other = told(CLOSE, 3e-3), told({**CLOSE, 1e-1: [9.0, 9.0]}, 3e-3)  # a rate that nobody would choose
    (shared,) = compare(runs_of(over(("a", same), ("b", same)))).suite
    (apart,) = compare(runs_of(over(("a", same), ("b", other)))).suite
    (once,) = compare(runs_of(tuned_study(NOISE, same, same))).items
    assert once.choice
    assert shared.choice == pytest.approx(once.choice)
    assert apart.choice == pytest.approx(once.choice / np.sqrt(2), rel=1e-3)
    assert joint([1.0, 2.0, None], [frozenset("a"), frozenset("a"), frozenset("a")]).sum() == pytest.approx(9)
    assert joint([1.0, 2.0, None], [frozenset("a"), frozenset("b"), frozenset()]).sum() == pytest.approx(5)
