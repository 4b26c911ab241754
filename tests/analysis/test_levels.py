"""What a report claims is false as seldom as it says: small versions of `experiments/levels`, a row each.

A rate may exceed its level by three standard errors of the studies that are simulated here.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablab.analysis.estimates import paired

FOLDER = Path(__file__).parents[2] / "experiments" / "levels"
STUDIES = 300


@pytest.fixture(scope="module")
def levels() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for folder in (FOLDER / "rows", FOLDER):
            patch.syspath_prepend(str(folder))
        patch.setattr(sys, "modules", dict(sys.modules))
        yield importlib.import_module


def slack(level: float, studies: int) -> float:
    return 3 * float(np.sqrt(level * (1 - level) / studies))


@pytest.mark.parametrize(("variants", "seeds", "noise"), [(5, 5, "normal"), (8, 5, "t3"), (5, 3, "skewed")])
def test_no_false_verdict_more_often_than_the_level(levels: Any, variants: int, seeds: int, noise: str) -> None:
    counted, simulated = levels("counted"), levels("simulated")
    of = counted.any_false("", simulated.tables(STUDIES, variants, seeds, noise), [0.0] * variants)
    assert of.rate <= 0.05 + slack(0.05, STUDIES)


@pytest.mark.parametrize(("variants", "seeds"), [(8, 5), (5, 3)])
def test_no_false_equivalence_more_often_than_the_level(levels: Any, variants: int, seeds: int) -> None:
    """Effects of just the margin: single tests at the level would claim one of them in a quarter of the studies."""
    counted, simulated, margin = levels("counted"), levels("simulated"), levels("equivalence").MARGIN
    tables = simulated.tables(STUDIES, variants, seeds, key=1)
    of = counted.any_false("", tables, [margin] * variants, margin)
    assert of.rate <= 0.05 + slack(0.05, STUDIES)
    single = [
        any(
            paired(e.differences).equivalence_p(margin) < 0.05
            for e, _ in simulated.judged(simulated.claims(table, margin))
        )
        for table in counted.moved(tables, [margin] * variants)
    ]
    assert np.mean(single) > (0.09 if seeds > 3 else 0.03)  # of three seeds the shared error corrects them, too


def test_the_suite_and_its_tasks_share_one_level(levels: Any) -> None:
    """Two families of their own would claim falsely in .09 of the studies."""
    rates = [list(levels("suite").studies_of(STUDIES, (variants, 5, "normal"))) for variants in (1, 3)]
    assert np.mean(rates) <= 0.05 + slack(0.05, 2 * STUDIES)


@pytest.mark.parametrize("variants", [3, 5, 8])
def test_simultaneous_intervals_hold_together_and_single_ones_do_not(levels: Any, variants: int) -> None:
    counted, tables = levels("counted"), levels("simulated").tables(STUDIES, variants, 5, key=2)
    together = counted.all_hold("", tables, lambda evidence: evidence.simultaneous)
    alone = counted.all_hold("", tables, lambda evidence: evidence.interval)
    assert together.rate >= 0.95 - slack(0.95, STUDIES)
    assert alone.rate < together.rate - 0.03


@pytest.mark.parametrize(("variants", "seeds"), [(3, 5), (8, 5), (5, 10)])
def test_the_only_effect_of_the_detectable_size_is_resolved(levels: Any, variants: int, seeds: int) -> None:
    rate = levels("power").of(STUDIES, variants, seeds).rate
    assert rate == pytest.approx(0.80, abs=slack(0.80, STUDIES) + 0.02)  # a little more, where others are resolved


@pytest.mark.parametrize(("variants", "seeds"), [(1, 5), (8, 5), (8, 3)])
def test_the_printed_range_of_seeds_holds_the_right_number(levels: Any, variants: int, seeds: int) -> None:
    held = list(levels("seeds").held(STUDIES, variants, seeds))
    assert np.mean(held) >= 0.95 - slack(0.95, len(held))


def test_every_row_of_the_table_has_a_nominal_level_and_names_its_worst_kind(levels: Any) -> None:
    measure, simulated = levels("measure"), levels("simulated")
    cells = [simulated.Cell("1 variant", 0.03, 100), simulated.Cell("2 variants", 0.06, 100)]
    lines = measure.table([simulated.Row("verdict", "any", 0.05, cells)]).splitlines()
    assert lines[2] == "| verdict | any | ≤ 0.05 | 0.045 | 0.060 ± 0.024 | 2 variants |"
    assert set(measure.there()) >= {"verdict", "equivalence", "suite", "intervals", "power", "seeds"}


def test_no_false_verdict_at_any_of_the_planned_looks_more_often_than_the_level(
    levels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = levels("looks")
    monkeypatch.setattr(looks, "SPENT", ())  # each subset of looks of which is a simulation of its own
    for cell in looks.row(8).cells:
        assert cell.rate <= 0.05 + slack(0.05, cell.studies), cell.where
