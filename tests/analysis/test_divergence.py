"""Rates of divergence: Fisher's p by scipy, Holm over all comparisons, and the level of what is claimed, counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from said import notes_of, sentence_of
from scipy import stats
from synthetic import runs_of, study

from ablab.analysis.comparison import Comparison, compare
from ablab.analysis.estimates import LEVEL, fisher, holm
from ablab.analysis.verdicts import Verdict

BASE = [1.0 + 0.01 * (seed % 7) for seed in range(20)]


def with_diverged(**counts: int) -> tuple[Comparison, ...]:
    """A comparison per variant, `base` aside, of which that many of 20 runs diverged."""
    losses = {
        name: [math.nan] * count + [value + 0.001 * place * seed for seed, value in enumerate(BASE)][count:]
        for place, (name, count) in enumerate(counts.items())
    }
    return compare(runs_of(study(losses))).items


def test_a_baseline_that_diverges_more_often_is_a_finding() -> None:
    (item,) = with_diverged(base=8, calm=0)
    assert item.verdict is not Verdict.UNSTABLE
    assert item.p_divergence == pytest.approx(stats.fisher_exact(np.array([[0, 20], [8, 12]])).pvalue)
    assert "baseline diverged 8/20 against 0/20 (Fisher p = .003: calm DIVERGES LESS OFTEN)" in sentence_of(item)


def test_only_who_diverges_as_often_or_more_is_unstable() -> None:
    less, equal, more, never = with_diverged(base=4, less=1, equal=4, more=9, never=0)
    verdicts = [item.verdict is Verdict.UNSTABLE for item in (less, equal, more, never)]
    assert verdicts == [False, True, True, False]
    raw = [fisher(item.diverged, 20, 4, 20) for item in (less, equal, more, never)]
    assert [item.p_divergence for item in (less, equal, more, never)] == pytest.approx(holm(raw))


def test_comparisons_without_divergence_count_in_the_family_and_show_no_p() -> None:
    unstable, calm = with_diverged(base=0, unstable=6, calm=0)
    assert calm.p_divergence is None
    assert unstable.p_divergence == pytest.approx(min(1, 2 * fisher(6, 20, 0, 20)))
    found = compare(runs_of(study({"base": BASE, "unstable": [math.nan, *BASE[1:]], "calm": BASE[::-1]})))
    assert (
        "DIVERGENCE  Fisher's p of equal rates is adjusted by Holm over all 2 comparisons, a family of its own, in "
        "which any false claim has at most the probability .05."
    ) in notes_of(found)
    assert not any("DIVERGENCE" in note for note in notes_of(compare(runs_of(study({"a": BASE, "b": BASE[::-1]})))))


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_the_family_holds_its_level(rate: float) -> None:
    counts = np.random.default_rng(1).binomial(20, rate, size=(1_000, 6))
    p = {(a, b): fisher(a, 20, b, 20) for a in range(21) for b in range(21)}
    claimed = np.mean([min(holm([p[own, row[0]] for own in row[1:]])) < LEVEL for row in counts.tolist()])
    assert claimed <= LEVEL
