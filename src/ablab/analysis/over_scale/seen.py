"""A variant's paired effects at the sizes of a ladder, and how much they vary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablab.analysis.estimates import variance_of

Array = NDArray[np.float64]

_TREND = 0.25  # standard deviation of the slope of log variance over log compute


@dataclass(frozen=True)
class Seen:
    """A variant's paired effects at the sizes of a ladder, the smallest compute first.

    Args:
        x: the logarithm of each compute.
        effects: the mean paired difference at each.
        spreads: the variance of a single paired difference at each; NaN where there is one alone.
        counts: paired differences at each.
        choice: the covariance of what choosing settings by tuning adds to the effects, which no seeds make smaller.
        anew: the variance that it adds to a measurement at a further size, where each is tuned by itself.
    """

    x: Array
    effects: Array
    spreads: Array
    counts: Array
    choice: Array | None = None
    anew: float = 0.0

    @classmethod
    def of(
        cls,
        x: Sequence[float] | Array,
        differences: Sequence[Sequence[float]] | Array,
        choice: Array | None = None,
        anew: float = 0.0,
    ) -> Seen:
        """From the paired differences at each compute, one a seed."""
        single = [np.asarray(each, dtype=float) for each in differences]
        return cls(
            np.asarray(x, dtype=float),
            np.array([each.mean() for each in single]),
            np.array([variance_of(each) if len(each) > 1 else math.nan for each in single]),
            np.array([len(each) for each in single], dtype=float),
            choice,
            anew,
        )

    def without_last(self) -> Seen:
        choice = None if self.choice is None else self.choice[:-1, :-1]
        return Seen(self.x[:-1], self.effects[:-1], self.spreads[:-1], self.counts[:-1], choice, self.anew)

    @property
    def degrees(self) -> float:
        """Of freedom of all variances together, one of which their trend takes."""
        return float(max(1.0, (self.counts - 1).sum() - 1))


def smoothed(seen: Seen, at: Array) -> Array:
    """The variance of a single paired difference at each x: a power of compute, of the variances that were seen.

    The likelihood is that of scaled chi squares; the power is kept near 0, since few seeds know little of it.
    """
    known = (seen.counts > 1) & np.isfinite(seen.spreads)
    x, spread, degrees = seen.x[known], seen.spreads[known], seen.counts[known] - 1
    middle, whole = float(np.average(x, weights=degrees)), float(np.average(spread, weights=degrees))
    if whole == 0:
        return np.zeros_like(at)
    design = np.stack([np.ones_like(x), x - middle], 1)
    penalty = np.diag([0.0, 1 / _TREND**2])
    line = np.array([math.log(whole), 0.0])
    for _ in range(25):
        ratio = spread * np.exp(-design @ line)
        slope = design.T @ (degrees * (1 - ratio)) / 2 + penalty @ line
        bend = (design.T * (degrees * ratio) / 2) @ design + penalty
        step = np.linalg.solve(bend + 1e-9 * np.eye(2), slope)
        line = line - np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(np.exp(line[0] + line[1] * (at - middle)))
