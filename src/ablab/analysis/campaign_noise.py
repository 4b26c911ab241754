"""What a campaign has seen of noise: how much differences vary, and how lucky the baseline was on each seed.

The difference of a proposal on a seed is its effect, plus the luck of the baseline on that seed, which all proposals
share, plus noise of its own. The baseline's luck is nothing that a proposal should gain by: where all proposals look
good on one seed, the baseline was unlucky there. So it is estimated from the proposals that were judged *before*, and
taken out, with what is left unknown of it; the evidence on a proposal depends on nothing that follows it.

Only how seeds differ from each other tells of luck: what all seeds have in common could as well be the proposals'. The
mean of proposals is therefore left free, and the uncertainty of the luck that all seeds have in common stays in.

First and second runs of proposals are used, each about their median, with effects beyond two standard deviations
pulled in. The share of the variance that is the baseline's is estimated, and drawn towards one half, as where proposals
are as noisy as the baseline.

Every array may have leading dimensions, of campaigns side by side.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ablab.analysis.estimates import ROUNDING, FloatArray
from ablab.analysis.shift_evidence import Scale

SEEDS = 20  # of the baseline: every proposal has the same, and begins at another one
MOST_DEGREES = 32  # of the common variance behind each proposal's own: standard deviations differ by about 13%
_BY_FIRST = 5  # degrees of freedom, at most, that the spread of first runs stands for
_SHARE, _SHARE_DEGREES = 0.5, 10.0  # of the variance that is the baseline's, before anything is seen of it
_MOST_SHARE = 0.9
_FAR = 2.0  # standard deviations, beyond which first runs are pulled in
_NORMAL_QUARTILE, _MEDIAN = 0.6745, 0.455  # of a normal variable's size, of a chi-squared one of one degree of freedom
_WILD = 6.0  # times the common variance, at which that of a proposal is cut
_SELECTED = 0.95  # of the variance: those that look good go on, which makes it 5% too large (by simulation)


@dataclass(frozen=True)
class Noise:
    """What is known before a proposal is judged.

    Args:
        scale: of the paired differences.
        luck: (..., seeds): of the baseline, as far as it is known, in the unit of the differences.
        covariance: (..., seeds, seeds): of a proposal's differences about its effect and that luck, in units of the
            variance.
    """

    scale: Scale
    luck: FloatArray
    covariance: FloatArray


def order_of_seeds(number: int, seeds: int = SEEDS) -> list[int]:
    """The places of the seeds in the order in which a proposal has them; that of each number, from 1, begins later."""
    return [(number - 1 + k) % seeds for k in range(seeds)]


def noise_of(improvements: FloatArray, numbers: Sequence[int]) -> Noise:
    """What earlier proposals say of noise.

    Args:
        improvements: (..., proposals, seeds), in the metric's unit and its good direction; NaN where nothing was run.
        numbers: of the proposals, from 1, by which they had their seeds.
    """
    proposals, seeds = improvements.shape[-2:]
    variance, degrees = _pooled(improvements)
    if proposals:
        places = (np.array(numbers, dtype=int)[:, None] - 1 + np.arange(2)) % seeds
        early = np.take_along_axis(improvements, np.broadcast_to(places, (*improvements.shape[:-1], 2)), -1)
        variance, degrees = _with_first(early[..., 0], variance, degrees)
    with np.errstate(divide="ignore"):
        behind = np.where(degrees > 0, 1 / (1 / MOST_DEGREES + 1 / np.maximum(degrees, 1e-9)), 0.0)
    scale = Scale(variance=variance, degrees=behind)
    if proposals < 2:
        return Noise(scale, np.zeros((*improvements.shape[:-2], seeds)), _identity(improvements))
    sums, counts, share = _seen_of_luck(early, places, variance, seeds)
    return Noise(scale, *_luck(sums, counts, share))


def _identity(improvements: FloatArray) -> FloatArray:
    seeds = improvements.shape[-1]
    return np.broadcast_to(np.eye(seeds), (*improvements.shape[:-2], seeds, seeds))


def _pooled(improvements: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The variance within proposals of two seeds or more, and its degrees of freedom; a few wild ones are cut.

    Ties of a metric that is told in steps say nothing of how much differences vary: those without spread do not count.
    """
    there = ~np.isnan(improvements)
    runs = there.sum(-1)
    mean = np.where(there, improvements, 0).sum(-1) / np.maximum(runs, 1)
    squares = np.where(there, (improvements - mean[..., None]) ** 2, 0).sum(-1)
    degrees = np.where(np.sqrt(squares) > ROUNDING * np.abs(mean), np.maximum(runs - 1, 0), 0)
    total = np.maximum(degrees.sum(-1), 1)
    each = squares / np.maximum(degrees, 1)
    pooled = _median_of(np.where(degrees > 0, each, np.nan)) / _MEDIAN
    for _ in range(6):
        pooled = (degrees * np.minimum(each, _WILD * pooled[..., None])).sum(-1) / total
    return pooled * _SELECTED, degrees.sum(-1).astype(float)


def _median_of(values: FloatArray) -> FloatArray:
    """The median of the numbers that there are along the last axis; 0 of none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nan_to_num(np.nanmedian(values, -1)) if values.shape[-1] else np.zeros(values.shape[:-1])


def _with_first(first: FloatArray, variance: FloatArray, degrees: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same with the spread of first runs, which effects enlarge: it counts while there is little else.

    Where half of them tie there is none, and nothing is added.
    """
    most = float(min(first.shape[-1] - 1, _BY_FIRST))
    if most < 2:
        return variance, degrees
    center = np.nanmedian(first, -1)
    spread = np.nanmedian(np.abs(first - center[..., None]), -1) / _NORMAL_QUARTILE
    more = np.where(spread > ROUNDING * np.abs(center), most, 0.0)
    return (degrees * variance + more * spread**2) / np.maximum(degrees + more, 1), degrees + more


def _seen_of_luck(
    early: FloatArray, places: FloatArray, variance: FloatArray, seeds: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """For each seed the sum and the number of what proposals had there, and the share of the variance that is luck.

    Args:
        early: (..., proposals, 2): the first two runs of each.
        places: (proposals, 2): of their seeds.
    """
    there = ~np.isnan(early) & (variance > 0)[..., None, None]  # without any spread, nothing is seen of luck
    center = np.nanmedian(np.where(there.any(-2, keepdims=True), early, 0), -2, keepdims=True)
    limit = _FAR * np.sqrt(variance)[..., None, None]
    pulled = np.where(there, np.clip(early - center, -limit, limit), 0)
    at = places[..., None] == np.arange(seeds)  # (proposals, 2, seeds)
    sums = np.einsum("...pr,prs->...rs", pulled, at)
    counts = np.einsum("...pr,prs->...rs", there.astype(float), at)
    squares = np.einsum("...pr,prs->...rs", pulled**2, at)
    share = _share_of_luck(sums[..., 0, :], counts[..., 0, :], squares[..., 0, :], variance)
    return sums.sum(-2), counts.sum(-2), share


def _share_of_luck(sums: FloatArray, counts: FloatArray, squares: FloatArray, variance: FloatArray) -> FloatArray:
    """The share of the variance that proposals have in common on a seed, by analysis of variance of first runs."""
    total, seeds = counts.sum(-1), (counts > 0).sum(-1)
    means = sums / np.maximum(counts, 1)
    within = (squares - counts * means**2).sum(-1) / np.maximum(total - seeds, 1)
    grand = sums.sum(-1) / np.maximum(total, 1)
    between = (counts * (means - grand[..., None]) ** 2).sum(-1) / np.maximum(seeds - 1, 1)
    each = (total - (counts**2).sum(-1) / np.maximum(total, 1)) / np.maximum(seeds - 1, 1)
    found = (between - within) / np.maximum(each * variance, np.finfo(float).tiny)
    degrees = np.maximum(np.minimum(seeds - 1, total - seeds), 0)
    weighed = _SHARE_DEGREES * _SHARE + degrees * np.clip(found, 0, _MOST_SHARE)
    return np.asarray(weighed / (_SHARE_DEGREES + degrees))


def _luck(sums: FloatArray, counts: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The baseline's luck on each seed, and the covariance of what is left of a proposal's differences.

    Normal luck with the variance `share`, seen through proposals' own noise, whose mean may be anything.
    """
    seeds = counts.shape[-1]
    own = (1 - share)[..., None]
    weight = counts / own
    one = np.eye(seeds)
    precision = one / share[..., None, None] + weight[..., None] * one
    total = np.maximum(weight.sum(-1), 1e-9)[..., None]
    precision = precision - weight[..., :, None] * weight[..., None, :] / total[..., None]
    left = np.linalg.inv(precision)
    mean = (sums / own).sum(-1, keepdims=True) / total
    luck = np.einsum("...st,...t->...s", left, sums / own - weight * mean)
    return luck, left + own[..., None] * one
