"""Comparisons of several studies, corrected over all of them instead of each within its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import runs_of, study

from ablab.analysis.comparison import Comparison, compare
from ablab.analysis.conclusions import as_one_family
from ablab.analysis.estimates import holm
from ablab.analysis.verdicts import Verdict

BASE = [1.0, 1.02, 0.97, 1.05, 0.99]


def compared(seed: int, variants: int = 3, margin: float | None = None) -> list[Comparison]:
    noise = np.random.default_rng(seed).normal(0.02, 0.02, (variants, 5))
    values = {"relu": BASE} | {f"v{place}": [*(np.array(BASE) + each)] for place, each in enumerate(noise)}
    return [*compare(runs_of(study(values)), margin=margin).items]


@pytest.mark.parametrize("margin", [None, 0.05])
def test_of_one_study_it_is_what_the_study_says(margin: float | None) -> None:
    items = compared(0, margin=margin)
    assert as_one_family(items) == items


def test_of_several_it_is_holms_method_over_all_and_those_to_come() -> None:
    items = [*compared(1), *compared(2, 2)]
    raw = [item.p_raw for item in items if item.p_raw is not None]
    assert len(raw) == len(items)
    expected = holm([*raw, *[1.0] * 4])[: len(raw)]
    found = as_one_family(items, reserved=4)
    assert [item.p_adjusted for item in found] == pytest.approx(expected)
    assert [item.interval for item in found] == [item.interval for item in items]
    before, now = ([item.verdict for item in each] for each in (items, found))
    assert before.count(Verdict.WORSE) > now.count(Verdict.WORSE) > 0


def test_what_has_no_estimate_takes_no_share_and_what_lies_within_the_placebos_stays_there() -> None:
    few = compare(runs_of(study({"relu": [1.0, 1.1], "gelu": [1.2, 1.3]}))).items[0]
    far = replace(next(item for item in compared(1) if item.verdict is Verdict.WORSE), floor=10.0)
    found = as_one_family([few, far])
    assert found[0] == few
    assert found[1].verdict is Verdict.WITHIN_FLOOR
    assert found[1].p_adjusted == pytest.approx(far.p_raw)
