"""e-values of the paired t: a mean of 1 without an effect, and errors below alpha whenever one stops."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from ablab.analysis.anytime import anytime_p, level_at, log_e_value, threshold

STUDIES, SEEDS = 20_000, 40


@pytest.mark.parametrize(("pairs", "t"), [(4, 6.5), (5, 5.4), (8, 4.4), (10, 4.2), (20, 3.8)])
def test_the_thresholds_at_a_level_of_5_percent(pairs: int, t: float) -> None:
    assert threshold(pairs, 0.05) == pytest.approx(t, abs=0.06)
    assert math.exp(log_e_value(threshold(pairs, 0.05), pairs)) == pytest.approx(20)
    assert level_at(pairs, 0.05) == pytest.approx(2 * stats.t.sf(threshold(pairs, 0.05), pairs - 1))


@pytest.mark.parametrize("pairs", [2, 3, 4, 10, 50])
def test_without_an_effect_its_mean_is_one(pairs: int) -> None:
    def weighted(t: float) -> float:
        return math.exp(log_e_value(t, pairs)) * float(stats.t.pdf(t, pairs - 1))

    half = sum(integrate.quad(weighted, low, high, limit=200)[0] for low, high in [(0, 10), (10, 1e3), (1e3, np.inf)])
    assert 2 * half == pytest.approx(1, abs=0.01)


def test_the_ratio_is_that_of_the_densities_of_t() -> None:
    """Over effects drawn from the mixture, t has the density that the e-value gives it."""
    generator, pairs = np.random.default_rng(1), 6
    values = generator.normal(size=(200_000, pairs)) + generator.normal(0, 3, size=(200_000, 1))
    t = values.mean(1) / values.std(1, ddof=1) * math.sqrt(pairs)
    grid = np.linspace(-20, 20, 2001)
    density = np.exp([log_e_value(float(x), pairs) for x in grid]) * stats.t.pdf(grid, pairs - 1)
    for low, high in [(-1, 1), (1, 4), (4, 20)]:
        inside = (grid >= low) & (grid <= high)
        assert float(np.trapezoid(density[inside], grid[inside])) == pytest.approx(
            float(((t > low) & (t < high)).mean()), abs=0.005
        )


@pytest.mark.parametrize("heavy", [False, True])
def test_no_rule_of_stopping_makes_it_err_more_often(heavy: bool) -> None:
    generator = np.random.default_rng(2)
    values = generator.standard_t(3, size=(STUDIES, SEEDS)) if heavy else generator.normal(size=(STUDIES, SEEDS))
    claimed = np.zeros(STUDIES, bool)
    for pairs in range(2, SEEDS + 1):
        seen = values[:, :pairs]
        t = seen.mean(1) / seen.std(1, ddof=1) * math.sqrt(pairs)
        claimed |= np.abs(t) >= threshold(pairs, 0.05)
    assert 0.01 < float(claimed.mean()) < 0.05


@pytest.mark.parametrize("sides", [1, 2])
def test_the_p_value_is_that_of_the_largest_evidence_so_far(sides: int) -> None:
    t, pairs = (1.0, 7.0, 3.0), (4, 5, 8)
    raw = [float(sides * stats.t.sf(each, n - 1)) for each, n in zip(t, pairs, strict=True)]
    assert anytime_p(raw, pairs, sides) == pytest.approx(math.exp(-log_e_value(7.0, 5)))
    assert anytime_p(raw[:1], pairs[:1], sides) == anytime_p([1.0], [1], sides) == anytime_p([], [], sides) == 1.0
    assert anytime_p([0.0], [10], sides) == pytest.approx((1 + 10 * 9) ** -4.5, rel=1e-6)


def test_two_pairs_alone_never_show_anything_and_none_are_no_test() -> None:
    assert threshold(1, 0.05) == threshold(2, 0.05) == math.inf
    assert level_at(1, 0.05) == level_at(2, 0.05) == 0
