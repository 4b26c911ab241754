"""Evidence that holds at any time: e-values of the paired t, for campaigns that have no last look.

An e-value is a likelihood ratio that has a mean of at most 1 where there is no effect. By Ville's inequality the
probability that it *ever* reaches 1 / alpha, at whatever number of seeds one stops, is at most alpha. So 1 over the
largest e-value so far is a p value that holds under any rule of stopping, planned or not.

Here it is the ratio of "effects are drawn from a normal distribution of `SPREAD` standard deviations of a paired
difference" to "no effect", with the scale of the differences unknown (a right Haar prior, which cancels). Both are
invariant to scale, so that the ratio is a function of t and of the number of pairs alone.

Sources: Ville (1939); Rouder et al. (2009) for the ratio; Hendriksen, de Heide and Grünwald (2021) and Perez-Ortiz et
al. (2024) for optional stopping with an unknown scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import optimize, stats

SPREAD = 3.0  # of effects, in standard deviations of a paired difference


def log_e_value(t: float, pairs: int) -> float:
    """The logarithm of the e-value of a paired t statistic from two pairs or more."""
    wider, degrees = 1 + pairs * SPREAD**2, pairs - 1
    if math.isinf(t):
        return degrees / 2 * math.log(wider)
    gain = math.log1p(t * t / degrees) - math.log1p(t * t / (degrees * wider))
    return (pairs * gain - math.log(wider)) / 2


def threshold(pairs: int, alpha: float) -> float:
    """The |t| at which the e-value of so many pairs is 1 / alpha; infinity if none is large enough."""
    wanted = -math.log(alpha)
    if pairs < 2 or log_e_value(math.inf, pairs) <= wanted:
        return math.inf
    high = 2.0
    while log_e_value(high, pairs) < wanted:
        high *= 2
    return float(optimize.brentq(lambda t: log_e_value(float(t), pairs) - wanted, 0.0, high))


def level_at(pairs: int, alpha: float, sides: int = 2) -> float:
    """The level of an ordinary t test that is as strict, at so many pairs; 0 where no t is large enough."""
    return float(sides * stats.t.sf(threshold(pairs, alpha), pairs - 1)) if pairs > 1 else 0.0


def anytime_p(p_values: Sequence[float], pairs: Sequence[int], sides: int = 2) -> float:
    """A p value that holds whenever one stops: 1 over the largest e-value so far.

    Args:
        p_values: ordinary ones of the t tests so far.
        pairs: of each of them.
        sides: 1 for one-sided tests, whose t counts where it points the way that is tested.
    """
    largest = max((_log_e_of(p, n, sides) for p, n in zip(p_values, pairs, strict=True)), default=0.0)
    return math.exp(-max(largest, 0.0))


def _log_e_of(p: float, pairs: int, sides: int) -> float:
    if pairs < 2 or p / sides >= 0.5:
        return 0.0
    return log_e_value(float(stats.t.isf(p / sides, pairs - 1)), pairs)
