"""Many comparisons with one baseline: the largest of several |t| that share it.

Statistics that share a baseline correlate by 1/2; those of different tasks, with baselines of their own, not at all;
all of them share the pooled standard error. Given that error (s, as a multiple of the true one) and a baseline's own
deviate z, the variants are independent, so that the probability that none of k exceeds c is

    E_s [ product over baselines of E_z [ (Phi(sqrt(2) c s + z) - Phi(z - sqrt(2) c s))^k ] ]

with s^2 chi-squared over its degrees of freedom and z standard normal. Both expectations are Gauss-Legendre sums:
deterministic, and as fast for hundreds of comparisons as for two. Small probabilities keep their digits, since the
complements are summed and never taken from 1.

Source: Dunnett (1955), "A multiple comparison procedure for comparing several treatments with a control", section 3;
Dunnett (1964), "New tables for multiple comparisons with a control".
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from ablab.analysis.estimates import LEVEL, FloatArray

_NEGLIGIBLE = 1e-18  # probability that is left out on either side of s
_FURTHEST = 9.0  # of z: beyond lies less than that
_PER_UNIT, _FEWEST, _MOST = 16, 64, 256  # nodes of s: for each unit of log s, and the limits of their number
_OF_Z = np.polynomial.legendre.leggauss(64)


@lru_cache(maxsize=256)
def dunnett_p(statistic: float, degrees: int, families: tuple[int, ...]) -> float:
    """P(the largest of |t| >= `statistic`) if no variant differs from its baseline.

    Args:
        statistic: |effect| / standard error.
        degrees: of the pooled standard error.
        families: number of comparisons that share a baseline, for each baseline (task). Statistics that share one
            correlate by 1/2, others not at all.
    """
    s, weights = _standard_errors(degrees)
    none_exceeds = np.zeros_like(s)  # the logarithm of its probability given s
    for size, baselines in Counter(families).items():
        none_exceeds += baselines * _log_none_exceeds(math.sqrt(2) * statistic * s, size)
    return float(np.clip(weights @ -np.expm1(none_exceeds), 0, 1))


@lru_cache(maxsize=256)
def dunnett_critical(degrees: int, families: tuple[int, ...], level: float = LEVEL) -> float:
    """The |t| that any of the comparisons exceeds with probability `level` if no variant differs."""
    count = sum(families)
    low = float(stats.t.ppf(1 - level / 2, degrees))
    if count == 1:
        return low
    high = float(stats.t.ppf(1 - level / 2 / count, degrees))  # Bonferroni's is the larger
    return float(optimize.brentq(lambda c: dunnett_p(float(c), degrees, families) - level, low, high, xtol=1e-9))


@lru_cache(maxsize=64)
def _standard_errors(degrees: int) -> tuple[FloatArray, FloatArray]:
    """[nodes] values of s and the weights of an expectation over it, spaced evenly in log s: its tails are long."""
    chi = stats.chi(degrees, scale=1 / math.sqrt(degrees))
    low, high = math.log(chi.ppf(_NEGLIGIBLE)), math.log(chi.isf(_NEGLIGIBLE))
    nodes, weights = np.polynomial.legendre.leggauss(min(max(_FEWEST, math.ceil(_PER_UNIT * (high - low))), _MOST))
    s = np.exp(low + (high - low) * (nodes + 1) / 2)
    mass = weights * s * chi.pdf(s)
    return s, mass / mass.sum()


def _log_none_exceeds(reach: FloatArray, size: int) -> FloatArray:
    """[nodes] log P(none of `size` variants is further than `reach` from the baseline), in units of one value's sd."""
    nodes, weights = _OF_Z
    z = _FURTHEST * (nodes + 1) / 2  # the integrand is even
    weights = weights * _FURTHEST * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    outside = special.ndtr(-reach[:, None] - z) + special.ndtr(z - reach[:, None])
    with np.errstate(divide="ignore"):  # log 0: certainly one exceeds
        any_exceeds = -np.expm1(size * np.log1p(-np.minimum(outside, 1)))
        return np.asarray(np.log1p(-np.minimum(any_exceeds @ weights, 1)))
