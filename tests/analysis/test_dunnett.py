"""Dunnett's test against published tables, Student's t, scipy's randomised integral and an integral on a grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ablab.analysis.dunnett import dunnett_critical, dunnett_p

# Dunnett (1964), tables 2 (5%) and 3 (1%), two-sided: {degrees: the values for 1 to 9 comparisons}.
TABLES = {
    0.05: {
        5: [2.57, 3.03, 3.29, 3.48, 3.62, 3.73, 3.82, 3.90, 3.97],
        10: [2.23, 2.57, 2.76, 2.89, 2.99, 3.07, 3.14, 3.19, 3.24],
        20: [2.09, 2.38, 2.54, 2.65, 2.73, 2.80, 2.86, 2.90, 2.95],
    },
    0.01: {
        5: [4.03, 4.63, 4.98, 5.22, 5.41, 5.56, 5.69, 5.80, 5.89],
        10: [3.17, 3.53, 3.74, 3.88, 3.99, 4.08, 4.16, 4.22, 4.28],
    },
}


@pytest.mark.parametrize(("level", "degrees"), [(level, df) for level, table in TABLES.items() for df in table])
def test_the_published_tables(level: float, degrees: int) -> None:
    found = [dunnett_critical(degrees, (count,), level) for count in range(1, 10)]
    assert found == pytest.approx(TABLES[level][degrees], abs=0.01)  # they err by up to one unit of their last digit


@pytest.mark.parametrize("degrees", [1, 2, 4, 10, 30, 1000])
@pytest.mark.parametrize("statistic", [0.0, 0.5, 2.0, 5.0, 40.0])
def test_one_comparison_is_students_t(degrees: int, statistic: float) -> None:
    assert dunnett_p(statistic, degrees, (1,)) == pytest.approx(
        float(2 * stats.t.sf(statistic, degrees)), rel=1e-9, abs=1e-15
    )
    assert dunnett_critical(degrees, (1,), 0.0125) == pytest.approx(float(stats.t.ppf(1 - 0.0125 / 2, degrees)))


@pytest.mark.parametrize("families", [(2,), (3,), (2, 2), (1, 3)])
@pytest.mark.parametrize(("statistic", "degrees"), [(1.5, 4), (2.5, 8), (4.0, 2)])
def test_scipys_multivariate_t(families: tuple[int, ...], statistic: float, degrees: int) -> None:
    count = sum(families)
    task = np.repeat(np.arange(len(families)), families)
    shape = np.where(task[:, None] == task, 0.5, 0.0) + 0.5 * np.eye(count)
    limit = np.full(count, statistic)
    inside = stats.multivariate_t(shape=shape, df=degrees).cdf(limit, lower_limit=-limit, random_state=0)
    assert dunnett_p(statistic, degrees, families) == pytest.approx(float(1 - inside), abs=3e-4)


def test_scipys_dunnett() -> None:
    generator = np.random.default_rng(0)
    control, *samples = (generator.normal(size=6) for _ in range(5))
    found = stats.dunnett(*samples, control=control, rng=np.random.default_rng(1))
    expected = [dunnett_p(abs(float(t)), 25, (4,)) for t in found.statistic]
    assert expected == pytest.approx(list(found.pvalue), abs=3e-3)  # scipy's own integral is randomised


def naive(critical: float, degrees: int, comparisons: int) -> float:
    """P(any |t| exceeds `critical`): the baseline's own deviate and the standard error summed on a plain grid."""
    z = np.linspace(-8, 8, 801)
    s = np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, degrees) / degrees)[:, None]
    reach = critical * math.sqrt(2) * s
    inside = (stats.norm.cdf(reach + z) - stats.norm.cdf(z - reach)) ** comparisons
    return 1 - float((inside * stats.norm.pdf(z)).sum(1).mean() * (z[1] - z[0]))


@pytest.mark.parametrize("level", [0.05, 0.0125, 0.005])
@pytest.mark.parametrize(("comparisons", "degrees"), [(2, 4), (9, 18), (200, 400)])
def test_critical_values_hold_all_comparisons_together(comparisons: int, degrees: int, level: float) -> None:
    critical = dunnett_critical(degrees, (comparisons,), level)
    assert dunnett_p(critical, degrees, (comparisons,)) == pytest.approx(level, rel=1e-6)
    assert naive(critical, degrees, comparisons) == pytest.approx(level, abs=3e-4)


def test_comparisons_with_different_baselines_need_a_larger_critical_value() -> None:
    assert dunnett_critical(8, (4,)) < dunnett_critical(8, (2, 2)) < dunnett_critical(8, (1, 1, 1, 1))


def test_without_noise_in_the_standard_error_tasks_multiply() -> None:
    one, three = (dunnett_p(3.0, 10**7, families) for families in ((200,), (200, 200, 200)))
    assert 1 - three == pytest.approx((1 - one) ** 3, rel=1e-5)


@given(
    st.integers(1, 200),
    st.integers(1, 400),
    st.floats(0, 30),
    st.lists(st.sampled_from([1, 2, 7, 50, 200]), min_size=1, max_size=3),
)
def test_p_lies_between_the_raw_one_and_bonferronis(k: int, degrees: int, statistic: float, more: list[int]) -> None:
    raw = float(2 * stats.t.sf(statistic, degrees))
    p = dunnett_p(statistic, degrees, (k, *more))
    slack = 1e-8
    assert raw - slack <= dunnett_p(statistic, degrees, (k,)) <= p + slack  # more comparisons, a larger p
    assert p <= min(1, raw * (k + sum(more))) + slack
    assert dunnett_p(statistic + 0.1, degrees, (k, *more)) <= p + slack  # a larger statistic, a smaller p


def test_hundreds_of_comparisons_on_several_tasks() -> None:
    families = (200, 200, 200)
    critical = dunnett_critical(1200, families)
    assert dunnett_critical(1200, (200,)) < critical < float(stats.t.ppf(1 - 0.05 / 2 / 600, 1200))
    assert dunnett_p(critical, 1200, families) == pytest.approx(0.05, rel=1e-6)
