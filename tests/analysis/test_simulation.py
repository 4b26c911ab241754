"""The false claims that the rules allow, and the truths that the intervals hold, counted in simulated studies.

The rates are those of the published simulation at a smaller size; the tolerance is three standard errors of a
proportion. Values of one seed correlate by .8 between variants.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats
from synthetic import runs_of, study

from ablab.analysis.comparison import compare
from ablab.analysis.estimates import LEVEL, holm, paired
from ablab.analysis.shared_error import mean_variance, shared_critical, with_shared_error
from ablab.analysis.verdicts import RESOLVED

REPETITIONS = 1_500
VARIANTS = 5
SEEDS = [3, 5, 10]


@lru_cache(maxsize=1)
def studies(seeds: int) -> np.ndarray:
    """[REPETITIONS, VARIANTS + 1, seeds]: the baseline first, and nothing does anything."""
    generator = np.random.default_rng(seeds)
    block = generator.normal(size=(REPETITIONS, 1, seeds)) * math.sqrt(0.8)
    return block + generator.normal(size=(REPETITIONS, VARIANTS + 1, seeds)) * math.sqrt(0.2)


def tolerance(rate: float) -> float:
    return 3 * math.sqrt(rate * (1 - rate) / REPETITIONS)


@dataclass
class Judged:
    """One study by the rules: the raw p value, the interval and whether something is claimed, of each variant."""

    raw: list[float]
    intervals: list[tuple[float, float]]
    claims: list[bool]

    def covers(self, effect: float) -> list[bool]:
        return [low <= effect <= high for low, high in self.intervals]


def by_the_rules(table: np.ndarray) -> Judged:
    """Three seeds: the shared standard error. More: paired t and Holm."""
    differences = [list(row - table[0]) for row in table[1:]]
    own = [paired(each) for each in differences]
    raw = [estimate.p_value for estimate in own]
    if table.shape[1] > 3:
        return Judged(raw, [estimate.interval() for estimate in own], [p < LEVEL for p in holm(raw)])
    estimates = [with_shared_error(each, mean_variance(differences)) for each in differences]
    critical = shared_critical(2, (VARIANTS,))
    intervals = [estimate.around(critical) for estimate in estimates]
    return Judged(raw, intervals, [abs(e.effect) > critical * e.standard_error for e in estimates])


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS)
def test_false_claims_and_intervals_hold_their_rates(seeds: int) -> None:
    effect = 0.7  # added to every variant: an interval moves with it, and holds it as often as it held 0
    found = [by_the_rules(table) for table in studies(seeds)]
    moved = [by_the_rules(np.vstack([table[0], table[1:] + effect])) for table in studies(seeds)[:300]]
    one = np.mean([study.raw[0] < LEVEL for study in found])
    uncorrected = np.mean([min(study.raw) < LEVEL for study in found])
    corrected = np.mean([any(study.claims) for study in found])
    assert one == pytest.approx(LEVEL, abs=tolerance(LEVEL))  # a single comparison holds its level
    assert uncorrected == pytest.approx(0.19, abs=0.04)  # five of them, uncorrected, do not
    assert 0 < corrected <= LEVEL + tolerance(LEVEL)
    covered = [study.covers(0) for study in found]
    if seeds == 3:  # these intervals hold all five at once
        assert np.mean([all(each) for each in covered]) >= 0.95 - tolerance(0.95)
    else:
        assert np.mean([each[0] for each in covered]) == pytest.approx(0.95, abs=tolerance(0.95))
    assert [study.covers(effect) for study in moved] == covered[:300]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS)
def test_the_comparison_follows_the_rules(seeds: int) -> None:
    """Verdict by verdict, on studies with a false claim and on others."""
    found = [(table, by_the_rules(table)) for table in studies(seeds)[:300]]
    wrong = [item for item in found if any(item[1].claims)][:5]
    right = [item for item in found if not any(item[1].claims)][:5]
    assert len(wrong) == len(right) == 5
    for table, judged in [*wrong, *right]:
        runs = runs_of(study({f"option{place}": list(row) for place, row in enumerate(table)}))
        items = compare(runs).items
        assert [item.interval for item in items] == [pytest.approx(interval) for interval in judged.intervals]
        assert [item.verdict in RESOLVED for item in items] == judged.claims


@pytest.mark.parametrize(("seeds", "published"), [(3, 0.247), (5, 0.163), (10, 0.092)])
def test_why_not_the_percentile_bootstrap(seeds: int, published: float) -> None:
    """Of few differences it draws too narrow an interval, which excludes 0 far too often."""
    differences = np.random.default_rng(seeds).normal(size=(REPETITIONS, seeds))
    drawn = np.random.default_rng(0).multinomial(seeds, [1 / seeds] * seeds, size=1_000)
    low, high = np.quantile(differences @ drawn.T / seeds, [LEVEL / 2, 1 - LEVEL / 2], axis=1)
    rate = np.mean((low > 0) | (high < 0))
    assert rate == pytest.approx(published, abs=tolerance(published))


@pytest.mark.parametrize("seeds", SEEDS)
def test_why_not_welch(seeds: int) -> None:
    """It throws the pairing away: almost no false claims, and almost no true ones."""
    table = studies(seeds)
    p = stats.ttest_ind(table[:, 1], table[:, 0], axis=1, equal_var=False).pvalue
    assert np.mean(p < LEVEL) < 0.01


@pytest.mark.parametrize("seeds", range(1, 8))
def test_why_not_signs(seeds: int) -> None:
    """Below six seeds the smallest p value that signs can give is above .05."""
    smallest = stats.binomtest(0, seeds).pvalue
    assert smallest == pytest.approx(2 / 2**seeds)
    assert (smallest < LEVEL) == (seeds >= 6)


def test_the_best_of_variants_that_do_nothing_beats_the_baseline() -> None:
    best = np.array([table[1:].mean(1).min() < table[0].mean() for table in studies(5)])
    assert best.mean() == pytest.approx(5 / 6, abs=tolerance(5 / 6))
