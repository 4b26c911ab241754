"""Whether a proposal is kept: after each of its seeds it is kept, discarded as futile, or gets one more.

A proposal is *kept* where the e-value of "better by `FIND` standard deviations of a paired difference" against "no
better" reaches 1 / level, from `FEWEST` seeds on. It is *futile* where that e-value is below `FUTILE_BELOW`, from the
first seed on: most proposals do nothing, and what they cost is what a campaign costs. That bound is not binding:
giving up claims nothing, so that the e-value holds the level whether one obeys it or goes on.

As evidence no seed counts for more than noise gives once in many seeds. The effect and its interval are of the
differences as they are: a limit there would pull a large effect towards zero, and the interval needs none. It holds at
whatever seed one stops as the e-value does, for normal differences with the variances described, of any effect.

The bound and the limits were chosen by simulation (`experiments/campaign`), so that of 200 proposals, 180 of which do
nothing, four in five of the effects of 1.5 standard deviations are found in less than twice the runs that one run for
each proposal takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from ablab.analysis.campaign_noise import Noise
from ablab.analysis.estimates import FloatArray
from ablab.analysis.shift_evidence import Scale, Sums, interval, log_e_value

FEWEST = 3  # seeds of a proposal that is kept
RARE = 3e-5  # noise that is larger once in so many seeds counts as if it were not: 4 standard deviations, known ones
FUTILE_BELOW = 0.65  # the e-value of a proposal that gets no further seed
CONFIDENCE_LEVEL = 0.05  # of the interval that is shown
_MOST_LOG = 700.0  # whose exponential is a number still


@dataclass(frozen=True)
class Evidence:
    """What the seeds of one proposal say.

    Attributes:
        seeds: that it has.
        improvement: in the metric's unit and its good direction, the baseline's luck taken out; None of no seed.
        low, high: a 95% interval of it, at whatever seed one stops; None: without an end.
        e_value: now, against "no better".
        p_value: 1 over the largest of them so far.
        deviation: the standard deviation of a paired difference, of campaign and proposal together; None: unknown.
    """

    seeds: int = 0
    improvement: float | None = None
    low: float | None = None
    high: float | None = None
    e_value: float = 1.0
    p_value: float = 1.0
    deviation: float | None = None

    def resolves(self, level: float) -> bool:
        """Whether the proposal is better, at that level."""
        return self.seeds >= FEWEST and self.e_value >= 1 / level

    @property
    def futile(self) -> bool:
        return self.seeds > 0 and self.e_value < FUTILE_BELOW


def sums_of(improvements: FloatArray, order: list[int], noise: Noise) -> Sums:
    """What a proposal's differences come to after each of its seeds, free of what they share.

    Args:
        improvements: (..., seeds run), in the order in which the proposal had its seeds.
        order: the places of these seeds.
    """
    runs = improvements.shape[-1]
    at = order[:runs]
    left = improvements - noise.luck[..., at]
    root = np.linalg.cholesky(noise.covariance[..., at, :][..., at])
    told = np.linalg.solve(root, np.stack([left, np.ones_like(left)], -1))  # independent, of variance 1
    values, weights = told[..., 0], told[..., 1]
    return Sums(
        total=(values * weights).cumsum(-1),
        information=(weights**2).cumsum(-1),
        squares=(values**2).cumsum(-1),
        seeds=np.arange(1, runs + 1),
    )


def _most(noise: Noise) -> FloatArray:
    """(..., seeds): the most that an improvement counts for as evidence, so that a wild seed keeps nothing."""
    degrees = np.asarray(noise.scale.degrees, dtype=float)
    quantile = special.stdtrit(np.maximum(degrees, 1e-9), 1 - RARE)
    most = np.where(degrees > 0, np.sqrt(noise.scale.variance) * np.minimum(quantile, _MOST_LOG), np.inf)
    return np.asarray(noise.luck + most[..., None] * np.sqrt(np.diagonal(noise.covariance, axis1=-2, axis2=-1)))


def log_e_values(improvements: FloatArray, order: list[int], noise: Noise, margin: float = 0.0) -> FloatArray:
    """(..., seeds run): the logarithm of the e-value after each seed.

    Args:
        margin: that an improvement has to exceed.
    """
    variance, degrees = (np.asarray(x)[..., None] for x in (noise.scale.variance, noise.scale.degrees))
    counted = np.minimum(improvements - margin, _most(noise)[..., order[: improvements.shape[-1]]])
    return log_e_value(sums_of(counted, order, noise), Scale(variance, degrees))


def evidence_of(improvements: list[float], order: list[int], noise: Noise, margin: float = 0.0) -> Evidence:
    """The evidence on one proposal.

    Args:
        improvements: on its seeds so far, in its order.
    """
    if not improvements:
        return Evidence()
    values = np.array(improvements)
    path = log_e_values(values, order, noise, margin)
    sums = sums_of(values, order, noise)
    last = Sums(*(np.asarray(each)[-1] for each in (sums.total, sums.information, sums.squares, sums.seeds)))
    center, low, high = interval(last, noise.scale, CONFIDENCE_LEVEL)
    return Evidence(
        seeds=len(values),
        improvement=center,
        low=low if np.isfinite(low) else None,
        high=high if np.isfinite(high) else None,
        e_value=float(np.exp(min(path[-1], _MOST_LOG))),
        p_value=float(np.exp(-np.clip(path.max(), 0, _MOST_LOG))),
        deviation=_deviation(last, noise.scale),
    )


def _deviation(sums: Sums, scale: Scale) -> float | None:
    seeds, degrees = float(np.asarray(sums.seeds)), float(np.asarray(scale.degrees))
    if seeds - 1 + degrees <= 0:
        return None
    rest = float(np.asarray(sums.squares) - np.asarray(sums.total) ** 2 / np.asarray(sums.information))
    return float(np.sqrt((degrees * float(np.asarray(scale.variance)) + max(rest, 0.0)) / (seeds - 1 + degrees)))
