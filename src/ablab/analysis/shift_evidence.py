"""Evidence that a proposal shifts a metric, seed by seed: e-values whose scale is shared with a campaign.

A few differences say little about their own spread, and a campaign has seen hundreds. So the standard deviation of a
proposal's differences is taken to be drawn around that of the campaign (a scaled inverse chi-squared distribution, as
in Smyth's moderated t): with no degrees of freedom the e-value is that of a t statistic of its own, with many that of
a known spread.

An e-value is here the likelihood ratio of "better by `FIND` standard deviations" to "no better": its mean is at most 1
where a proposal is no better, at whatever seed one stops, so that one over it is a p value (Ville 1939). It grows
fastest for the effect that a campaign is to find, and is as valid for any other.

All functions take arrays of any shape and broadcast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ablab.analysis.estimates import FloatArray

FIND = 1.5  # standard deviations of a paired difference: the smallest effect that a campaign is to find
SPREAD = 1.5  # of effects of either sign, in the same unit, in intervals


@dataclass(frozen=True)
class Scale:
    """What a campaign knows of the variance of a paired difference: a value, and degrees of freedom behind it."""

    variance: ArrayLike
    degrees: ArrayLike  # 0: nothing is known


@dataclass(frozen=True)
class Sums:
    """What the differences of a proposal come to, in units in which each has the campaign's variance.

    Args:
        total: the weighted sum of improvements.
        information: the sum of the weights; of independent differences, their number.
        squares: the weighted sum of squares.
        seeds: the number of differences.
    """

    total: ArrayLike
    information: ArrayLike
    squares: ArrayLike
    seeds: ArrayLike


def log_e_value(sums: Sums, scale: Scale, find: float = FIND) -> FloatArray:
    """The logarithm of the e-value of "better by `find` standard deviations" against "no better"."""
    degrees = np.asarray(scale.degrees) + sums.seeds
    slope = find * np.asarray(sums.total) / np.sqrt(_sum_of_squares(sums, scale))
    return np.asarray(_log_mean_exp_chi(slope, degrees) - np.asarray(sums.information) * find**2 / 2)


def interval(sums: Sums, scale: Scale, level: float) -> tuple[float, float, float]:
    """The estimated improvement, and an interval that covers it in 1 - `level`, at whatever seed one stops.

    It holds all shifts against which the e-value of "a shift of either sign" is below 1 / `level`.
    """
    information = float(np.asarray(sums.information))
    degrees = float(np.asarray(scale.degrees)) + float(np.asarray(sums.seeds))
    center = float(np.asarray(sums.total)) / information
    rest = max(float(_sum_of_squares(sums, scale)) - information * center**2, 0.0)
    wider = 1 + information * SPREAD**2
    # The e-value against a shift at the distance d is sqrt(1 / wider) (ratio)^(degrees / 2), with the ratio
    # (rest + y) / (rest + y / wider) of y = information d^2.
    ratio = (math.sqrt(wider) / level) ** (2 / degrees)
    half = math.inf if ratio >= wider else math.sqrt(rest * (ratio - 1) / (1 - ratio / wider) / information)
    return center, center - half, center + half


def _sum_of_squares(sums: Sums, scale: Scale) -> FloatArray:
    known = np.asarray(scale.degrees, dtype=float) * np.asarray(scale.variance, dtype=float)
    return np.asarray(np.maximum(known + np.asarray(sums.squares), np.finfo(float).tiny))


def _log_mean_exp_chi(slope: FloatArray, degrees: ArrayLike) -> FloatArray:
    """The logarithm of the mean of exp(slope * x), where x has a chi distribution."""
    half, square = np.asarray(degrees) / 2, slope**2 / 2
    odd = math.sqrt(2) * np.exp(special.gammaln(half + 0.5) - special.gammaln(half))
    mean = special.hyp1f1(half, 0.5, square) + slope * odd * special.hyp1f1(half + 0.5, 1.5, square)
    return np.asarray(np.log(np.maximum(mean, _LEAST)))


_LEAST = 1e-9  # what is smaller is lost in rounding, and far below every bound
