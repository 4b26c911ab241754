"""The false claims that the rules allow, counted in studies in which no variant does anything.

The rates are those of the published simulation at a smaller size; the tolerance is three standard errors of a
proportion. Values of one seed correlate by .8 between variants.
"""

import math

import numpy as np
import pytest

from ablab.analysis.dunnett import dunnett_critical
from ablab.analysis.estimates import holm, paired, pooled

REPETITIONS = 1_000
VARIANTS = 5


def studies(seeds: int) -> np.ndarray:
    """[REPETITIONS, VARIANTS + 1, seeds]: the baseline first."""
    generator = np.random.default_rng(seeds)
    block = generator.normal(size=(REPETITIONS, 1, seeds)) * math.sqrt(0.8)
    return block + generator.normal(size=(REPETITIONS, VARIANTS + 1, seeds)) * math.sqrt(0.2)


def at_most(rate: float) -> float:
    return rate + 3 * math.sqrt(rate * (1 - rate) / REPETITIONS)


@pytest.mark.parametrize("seeds", [5, 10])
def test_holm_keeps_the_rate_of_any_false_claim(seeds: int):
    any_raw = any_adjusted = covered = 0
    for table in studies(seeds):
        estimates = [paired(row - table[0]) for row in table[1:]]
        p_values = [estimate.p_value for estimate in estimates]
        any_raw += min(p_values) < 0.05
        any_adjusted += min(holm(p_values)) < 0.05
        low, high = estimates[0].interval()
        covered += low <= 0 <= high
    assert any_raw / REPETITIONS == pytest.approx(0.19, abs=0.04)  # uncorrected, far above the level
    assert any_adjusted / REPETITIONS <= at_most(0.05)
    assert covered / REPETITIONS == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / REPETITIONS))


def test_dunnett_keeps_the_rate_with_three_seeds():
    critical = dunnett_critical(VARIANTS * 2, (VARIANTS,))
    wrong = 0
    for table in studies(3):
        estimates = [pooled(list(row - table[0]), table) for row in table[1:]]
        wrong += any(abs(estimate.effect) > critical * estimate.standard_error for estimate in estimates)
    assert wrong / REPETITIONS <= at_most(0.05)
    assert wrong > 0  # the rule can claim something at all


def test_the_best_of_variants_that_do_nothing_beats_the_baseline():
    best = np.array([table[1:].mean(1).min() < table[0].mean() for table in studies(5)])
    assert best.mean() == pytest.approx(5 / 6, abs=0.04)
