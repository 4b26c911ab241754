"""Three seeds: the shared standard error by hand, and the level that it holds whoever is noisy, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ablab.analysis.estimates import LEVEL, paired
from ablab.analysis.shared_error import (
    UNCORRECTED,
    corrected_for,
    mean_variance,
    shared_critical,
    shared_p,
    with_shared_error,
)

STUDIES = 20_000
# Above which a rate that is .053 at most, as measured in many more studies, comes out in one of a thousand cells.
HIGHEST = 0.053 + 3.1 * math.sqrt(0.053 * 0.947 / STUDIES)


def test_one_comparison_has_the_paired_t_test() -> None:
    differences = [0.1, 0.3, 0.15]
    estimate = with_shared_error(differences, mean_variance([differences]))
    assert estimate == paired(differences)
    reference = stats.ttest_1samp(differences, 0)
    assert shared_p(float(reference.statistic), estimate.degrees, (1,)) == pytest.approx(reference.pvalue)
    assert estimate.around(shared_critical(2, (1,))) == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_the_larger_of_the_own_and_the_shared_error_counts() -> None:
    calm, noisy = [0.0, 0.1, 0.2], [-3.0, 0.0, 3.0]  # variances .01 and 9
    variance = mean_variance([calm, noisy])
    assert variance == pytest.approx(4.505)
    assert with_shared_error(calm, variance).standard_error == pytest.approx(math.sqrt(4.505 / 3))
    assert with_shared_error(noisy, variance).standard_error == pytest.approx(math.sqrt(9 / 3))
    assert with_shared_error(calm, variance).degrees == with_shared_error(noisy, variance).degrees == 2


def test_p_and_the_critical_value_agree_whatever_the_families() -> None:
    for families in [(1,), (8,), (15,), (3, 3), (40, 1)]:
        assert shared_p(shared_critical(2, families, 0.02), 2, families) == pytest.approx(0.02)
    assert [corrected_for(each) for each in [(1,), (UNCORRECTED,), (4 * UNCORRECTED,), (2, 2)]] == [1, 1, 2, 2]


def noise(variants: int) -> dict[str, tuple[float, list[float]]]:
    """Standard deviations: of the baseline, and of each variant."""
    alike = [1.0] * variants
    found = {f"baseline x {ratio:g}": (ratio, alike) for ratio in (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)}
    found |= {f"one variant x {ratio:g}": (1.0, [ratio, *alike[1:]]) for ratio in (0.1, 3.0, 10.0)}
    half = variants // 2
    found |= {f"half x {ratio:g}": (1.0, [ratio] * half + alike[half:]) for ratio in (3.0, 10.0)}
    return found | {
        "baseline and one variant x 10": (10.0, [10.0, *alike[1:]]),
        "every scale": (1.0, list(np.geomspace(0.1, 10, variants))),
    }


def differences(base: float, sds: list[float], seed: int) -> np.ndarray:
    """[STUDIES, variants, 3]: nothing does anything."""
    draw = np.random.default_rng(seed)
    own = draw.normal(size=(STUDIES, len(sds), 3)) * np.array(sds)[:, None]
    return np.asarray(own - base * draw.normal(size=(STUDIES, 1, 3)))


def any_false_claim(apart: np.ndarray) -> float:
    """As `with_shared_error` and `shared_critical` decide, of all studies at once."""
    variance = apart.var(2, ddof=1)
    error = np.sqrt(np.maximum(variance, variance.mean(1, keepdims=True)) / 3)
    claims = np.abs(apart.mean(2)) > shared_critical(2, (apart.shape[1],)) * error
    return float(claims.any(1).mean())


@pytest.mark.parametrize("variants", [1, 3, 5, 8, 15])
def test_the_level_holds_whoever_is_noisy(variants: int) -> None:
    """A standard error pooled over variants and the baseline claims falsely in .11 to .16 of some of these cells."""
    for seed, (name, (base, sds)) in enumerate(noise(variants).items()):
        assert any_false_claim(differences(base, sds, seed)) <= HIGHEST, name
    for level in (0.01, LEVEL):
        assert shared_p(shared_critical(2, (variants,), level), 2, (variants,)) == pytest.approx(level)


def test_the_simulation_decides_as_the_rule_does() -> None:
    for study in differences(5.0, [1.0] * 4, 1)[:50]:
        apart = [list(row) for row in study]
        estimates = [with_shared_error(row, mean_variance(apart)) for row in apart]
        p = [shared_p(abs(each.effect) / each.standard_error, each.degrees, (4,)) for each in estimates]
        assert (min(p) < LEVEL) == bool(any_false_claim(study[None]))


def test_it_sees_what_bonferroni_does_not() -> None:
    """One of five variants does something: 3.5 sd of a paired difference."""
    apart = differences(1.0, [1.0] * 5, 7)
    apart[:, 0] += 3.5 * math.sqrt(2)
    variance = apart.var(2, ddof=1)
    distance = np.abs(apart.mean(2))[:, 0]
    shared = np.sqrt(np.maximum(variance[:, 0], variance.mean(1)) / 3)
    assert np.mean(distance > shared_critical(2, (5,)) * shared) == pytest.approx(0.80, abs=0.02)
    plain = stats.t.isf(LEVEL / 2 / 5, 2) * np.sqrt(variance[:, 0] / 3)
    assert np.mean(distance > plain) == pytest.approx(0.32, abs=0.02)


@pytest.mark.parametrize("steps", [3, 8])
def test_steps_err_little_more_where_one_in_the_middle_is_ten_times_as_noisy(steps: int) -> None:
    """Each variant beside the one before it: .055 and .058 of studies, measured in more of them."""
    sd = np.ones(steps + 1)
    sd[steps // 2] = 10
    values = np.random.default_rng(0).standard_normal((STUDIES, steps + 1, 3)) * sd[:, None]
    differences = np.diff(values, axis=1)
    variances = differences.var(2, ddof=1)
    error = np.sqrt(np.maximum(variances, variances.mean(1, keepdims=True)) / 3)
    claims = np.abs(differences.mean(2)) > shared_critical(2, (steps,)) * error
    assert 0.04 < claims.any(1).mean() < 0.058 + 3.1 * math.sqrt(0.058 * 0.942 / STUDIES)
