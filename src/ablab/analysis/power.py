"""What a number of seeds could have shown: the detectable effect, and the seeds that a wanted effect needs.

All for the two-sided t test of one comparison at `level`, with `POWER` probability of seeing the effect. The noncentral
t probabilities are integrated here over the distribution of the standard error, since `scipy.stats.nct` returns NaN for
ordinary arguments (7 degrees of freedom, noncentrality 14).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL, Estimate

POWER = 0.8
MOST_SEEDS = 10_000  # more than this is said as "more than"

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def power(noncentrality: float, degrees: int, level: float = LEVEL) -> float:
    """The probability that |t| exceeds its critical value when t is centred on `noncentrality`."""
    critical = stats.t.ppf(1 - level / 2, degrees)
    quantile, weight = (_NODES + 1) / 2, _WEIGHTS / 2
    ratio = np.sqrt(stats.chi2.ppf(quantile, degrees) / degrees)  # estimated over true standard error
    seen = special.ndtr(noncentrality - critical * ratio) + special.ndtr(-noncentrality - critical * ratio)
    return float(weight @ seen)


@lru_cache(maxsize=4096)
def _needed_noncentrality(degrees: int, level: float) -> float:
    beyond = 2 * float(stats.t.ppf(1 - level / 2, degrees)) + 10  # where power is nearly 1, however few the degrees
    return float(optimize.brentq(lambda x: power(float(x), degrees, level) - POWER, 0.0, beyond, xtol=1e-6))


def detectable(estimate: Estimate, level: float = LEVEL) -> float:
    """The smallest effect that these seeds would show with probability `POWER`, in the metric's unit."""
    return _needed_noncentrality(estimate.degrees, level) * estimate.standard_error


def seeds_for(effect: float, sd: float, level: float = LEVEL) -> int:
    """The fewest seeds, `MOST_SEEDS` at most, that show `effect` when paired differences have `sd`."""

    def enough(seeds: int) -> bool:
        return _needed_noncentrality(seeds - 1, level) * sd <= abs(effect) * math.sqrt(seeds)

    low, high = FEWEST_SEEDS, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def seeds_needed(effect: float, estimate: Estimate, level: float = LEVEL) -> tuple[int, int, int]:
    """(about, at least, at most) the seeds that `effect` needs: the sd itself is known only within its interval."""
    degrees = estimate.degrees
    shrink, grow = (math.sqrt(degrees / float(stats.chi2.ppf(q, degrees))) for q in (1 - level / 2, level / 2))
    about, least, most = (seeds_for(effect, estimate.sd * factor, level) for factor in (1.0, shrink, grow))
    return about, least, most
