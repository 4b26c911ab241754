"""Power against the published figures and scipy's noncentral t, where that has a value."""

import math

import numpy as np
import pytest
from scipy import stats

from ablab.analysis.estimates import LEVEL, Estimate, paired
from ablab.analysis.power import MOST_SEEDS, detectable, power, seeds_for, seeds_needed


def of_sd_one(seeds: int) -> Estimate:
    return Estimate(effect=0.0, standard_error=1 / math.sqrt(seeds), degrees=seeds - 1, pairs=seeds)


@pytest.mark.parametrize(("seeds", "effect"), [(3, 3.26), (5, 1.68), (8, 1.16), (10, 1.00), (20, 0.66)])
def test_the_detectable_effect_in_units_of_the_sd(seeds: int, effect: float) -> None:
    assert round(detectable(of_sd_one(seeds)), 2) == effect


@pytest.mark.parametrize(("noncentrality", "degrees"), [(0.0, 2), (1.5, 4), (3.0, 9), (2.8, 60)])
def test_power_is_that_of_the_noncentral_t(noncentrality: float, degrees: int) -> None:
    critical = stats.t.ppf(0.975, degrees)
    reference = stats.nct.sf(critical, degrees, noncentrality) + stats.nct.cdf(-critical, degrees, noncentrality)
    assert power(noncentrality, degrees) == pytest.approx(reference, abs=2e-5)


@pytest.mark.parametrize("level", [0.025, 0.0125])
@pytest.mark.parametrize(("noncentrality", "degrees"), [(1.5, 4), (3.0, 9), (2.8, 60)])
def test_power_at_another_level(noncentrality: float, degrees: int, level: float) -> None:
    critical = stats.t.ppf(1 - level / 2, degrees)
    reference = stats.nct.sf(critical, degrees, noncentrality) + stats.nct.cdf(-critical, degrees, noncentrality)
    assert power(noncentrality, degrees, level) == pytest.approx(reference, abs=2e-5)


@pytest.mark.parametrize("looks", [1, 2, 10, 1000])
@pytest.mark.parametrize("seeds", [3, 5, 20])
def test_the_detectable_effect_is_seen_that_often_at_every_level(looks: int, seeds: int) -> None:
    effect = detectable(of_sd_one(seeds), 0.05 / looks)
    assert power(effect * math.sqrt(seeds), seeds - 1, 0.05 / looks) == pytest.approx(0.8, abs=1e-5)


def test_power_has_a_value_where_scipy_has_none() -> None:
    assert power(14.1, 7) == pytest.approx(1)


def test_the_seeds_needed_detect_the_effect_and_one_less_do_not() -> None:
    for effect in (3.0, 1.0, 0.3):
        seeds = seeds_for(effect, sd=1.0)
        assert detectable(of_sd_one(seeds)) <= effect
        assert seeds == 3 or detectable(of_sd_one(seeds - 1)) > effect
        strict = seeds_for(effect, sd=1.0, level=0.0125)
        assert detectable(of_sd_one(strict), 0.0125) <= effect < detectable(of_sd_one(strict - 1), 0.0125)


def test_the_range_of_seeds_is_that_of_the_sd() -> None:
    about, least, most = seeds_needed(1.0, of_sd_one(5))
    # The sd is known within .47 and 2.87 times its value at 5 seeds.
    assert (about, least, most) == (seeds_for(1.0, 1.0), seeds_for(1.0, 0.4654), seeds_for(1.0, 2.8736))
    # At a smaller level the interval of the sd is still the same one, as scipy has it.
    sds = [math.sqrt(4 / stats.chi2.ppf(share, 4)) for share in (0.999, 0.025)]
    expected = tuple(seeds_for(1.0, sd, 0.0125) for sd in (1.0, *sds))
    assert seeds_needed(1.0, of_sd_one(5), 0.0125) == expected


@pytest.mark.parametrize(("seeds", "margin"), [(5, 1.5), (10, 0.5), (10, 1.0), (10, 1.25)])
def test_the_range_holds_the_right_seeds_where_it_is_printed(seeds: int, margin: float) -> None:
    """Beside UNRESOLVED alone, and those are the studies whose sd came out large."""
    right = seeds_for(margin, 1.0)
    held: list[bool] = []
    for differences in np.random.default_rng(0).normal(size=(2000, seeds)):
        estimate = paired(differences.tolist())
        if estimate.p_value >= LEVEL and estimate.equivalence_p(margin) >= LEVEL and len(held) < 150:
            _, least, most = seeds_needed(margin, estimate)
            held.append(least <= right <= most)
    assert len(held) > 50
    assert np.mean(held) >= 0.95


def test_hopeless_effects_stop_at_the_most() -> None:
    assert seeds_for(1e-9, sd=1.0) == MOST_SEEDS
