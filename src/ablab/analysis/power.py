"""Power of a number of seeds: the detectable effect, and the seeds that a wanted effect needs.

All for the two-sided t test of one comparison at `level`, with `POWER` probability of seeing the effect; where it is
one of several, at the share of the level that it has while none is resolved. The noncentral
t probabilities are integrated here over the distribution of the standard error, since `scipy.stats.nct` returns NaN for
ordinary arguments (7 degrees of freedom, noncentrality 14).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL, Estimate, FloatArray

POWER = 0.8
_UNLUCKY = 0.001  # an sd that comes out so large by chance is what leaves a study of enough seeds unresolved
MOST_SEEDS = 10_000  # more than this is said as "more than"

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def power(noncentrality: float, degrees: int, level: float = LEVEL) -> float:
    """The probability that |t| exceeds its critical value when t is centred on `noncentrality`."""
    bound = _bound(degrees, level)
    seen = special.ndtr(noncentrality - bound) + special.ndtr(-noncentrality - bound)
    return float(_WEIGHTS / 2 @ seen)


@lru_cache(maxsize=4096)  # asked for again and again while a root is looked for
def _bound(degrees: int, level: float) -> FloatArray:
    """The critical value in true standard errors, at each node of the distribution of the estimated one."""
    ratio = np.sqrt(2 * special.gammaincinv(degrees / 2, (_NODES + 1) / 2) / degrees)  # estimated over true
    return np.asarray(special.stdtrit(degrees, 1 - level / 2) * ratio)


@lru_cache(maxsize=4096)
def _needed_noncentrality(degrees: int, level: float) -> float:
    beyond = 2 * float(special.stdtrit(degrees, 1 - level / 2)) + 10  # where power is nearly 1, however few the degrees
    return float(optimize.brentq(lambda x: power(float(x), degrees, level) - POWER, 0.0, beyond, xtol=1e-6))


def detectable(estimate: Estimate, level: float = LEVEL) -> float:
    """The smallest effect that these seeds would show with probability `POWER`, in the metric's unit."""
    return _needed_noncentrality(estimate.degrees, level) * estimate.standard_error


def seeds_for(effect: float, sd: float, level: float = LEVEL, choice: float = 0.0) -> int:
    """The fewest seeds, `MOST_SEEDS` at most, that show `effect` when paired differences have `sd`.

    Args:
        choice: the standard error that tuning adds, which no number of seeds makes smaller.
    """

    def enough(seeds: int) -> bool:
        return _needed_noncentrality(seeds - 1, level) * math.hypot(sd / math.sqrt(seeds), choice) <= abs(effect)

    low, high = FEWEST_SEEDS, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def seeds_needed(
    effect: float, estimate: Estimate, level: float = LEVEL, own: Estimate | None = None
) -> tuple[int, int, int]:
    """(about, at least, at most) the seeds that `effect` needs: the sd itself is known only within an interval.

    The effect is one that was chosen, as a margin is: of one that was estimated, no such range holds what it needs.

    Args:
        own: from the differences alone, where the standard error is pooled: its sd may be far from that of the others,
            and the range takes in both.
    """
    ranges = [[each.sd * factor for factor in _sd_bounds(each.degrees)] for each in (estimate, own) if each]
    sds = (estimate.sd, min(low for low, _ in ranges), max(high for _, high in ranges))
    about, least, most = (seeds_for(effect, sd, level, estimate.choice) for sd in sds)
    return about, least, most


@lru_cache(maxsize=256)
def _sd_bounds(degrees: int) -> tuple[float, float]:
    """The interval of the true standard deviation, in estimated ones.

    It reaches further down: where seeds were many enough, a study is unresolved because its sd came out too large, and
    of such studies the interval holds the truth in at least .93, too (a margin of one sd at 10 seeds, one variant: .98
    of the unresolved, .91 with equal tails).
    """
    low, high = (math.sqrt(degrees / float(stats.chi2.ppf(q, degrees))) for q in (1 - _UNLUCKY, LEVEL / 2))
    return low, high
