"""The law of a loss over compute, L = L_inf + A C^-alpha, fitted to the runs of a ladder.

As Hoffmann et al. (2022, "Training compute-optimal large language models", appendix D.2 and D.3) fit theirs: Huber's
loss with delta = 1e-3 of the logarithms, from several starts, of which the best is taken. L_inf is 0 or more. Few sizes
over few orders of magnitude know little of it: `floor_range` holds every L_inf with which the law fits the means of the
sizes about as well as the best one does, given their noise over seeds. Where that reaches from 0 to near the smallest
loss, L_inf is not identified; the slope of the law between the sizes still is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]

DELTA = 1e-3  # of Huber's loss, in log units
FEWEST_SIZES = 3  # for a law with a floor of its own
_STARTS = (0.0, 0.5, 0.9)  # of L_inf, as shares of the smallest loss
_NEAR = 0.995  # of the smallest loss: no L_inf lies above
_EXACT = 1e-10  # relative change at which a descent ends
_GRID = 24  # values of L_inf that are tried for its range
_STEEPEST = 3.0  # exponent


@dataclass(frozen=True)
class Curve:
    """L = floor + exp(log_scale - alpha log C)."""

    floor: float
    log_scale: float
    alpha: float
    floor_known: bool  # by an oracle
    floor_range: tuple[float, float]  # that fits about as well
    lowest: float  # mean loss of a size

    @property
    def identified(self) -> bool:
        """Whether the sizes (or an oracle) say what L_inf is, up to a quarter of the smallest loss."""
        low, high = self.floor_range
        return self.floor_known or (low > 0 and high - low <= self.lowest / 4)

    def loss(self, compute: Array) -> Array:
        return np.asarray(self.floor + np.exp(self.log_scale - self.alpha * np.log(compute)))


def fit(
    compute: Sequence[float],
    losses: Sequence[Sequence[float]],
    floor: float | None = None,
    ranged: bool = True,
    like: Curve | None = None,
) -> Curve:
    """The law of the losses at each compute, one a seed.

    Args:
        compute: of each size, all different and positive.
        losses: positive, and on average above the floor where it is given.
        floor: L_inf where it is known.
        ranged: also find the range of L_inf.
        like: a law of nearly the same losses, to start from.
    """
    x = np.repeat(np.log(compute), [len(each) for each in losses])
    y = np.concatenate([np.asarray(each, dtype=float) for each in losses])
    middle = float(np.mean(np.log(compute)))
    means = np.array([np.mean(each) for each in losses])
    free = floor is None and len(compute) >= FEWEST_SIZES
    begun = [share * means.min() for share in _STARTS] if like is None else [min(like.floor, 0.9 * means.min())]
    starts = begun if free else [floor or 0.0]
    found = min((_descend(x - middle, y, start, free) for start in starts), key=lambda each: each[0])
    _, (low, height, alpha) = found
    reach = _range(np.log(compute) - middle, losses, means) if free and ranged else (low, low)
    if floor is None and not free:
        reach = (0.0, _NEAR * float(means.min()))
    return Curve(low, height + alpha * middle, alpha, floor is not None, reach, float(means.min()))


def _descend(x: Array, y: Array, start: float, free: bool) -> tuple[float, tuple[float, float, float]]:
    """(Huber's loss, (floor, log height in the middle, alpha)) of the descent from a floor."""
    above = np.log(np.maximum(y - start, 1e-3 * y))
    slope, height = np.polyfit(x, above, 1)
    first = [height, float(np.clip(-slope, 1e-3, _STEEPEST - 1e-3))]
    log_y, most = np.log(y), _NEAR * float(y.min())

    def residuals(at: Array) -> Array:
        above = np.exp(np.clip(at[0] - at[1] * x, -700, 700))
        return np.asarray(np.log((at[2] if free else start) + above) - log_y)

    bounds = ([-np.inf, 0.0], [np.inf, _STEEPEST])
    if free:
        first.append(min(start, most * 0.999))
        bounds = ([*bounds[0], 0.0], [*bounds[1], most])
    made = optimize.least_squares(
        residuals,
        first,
        bounds=bounds,
        loss="huber",
        f_scale=DELTA,
        x_scale="jac",
        xtol=_EXACT,
        ftol=_EXACT,
        gtol=_EXACT,
        max_nfev=200,
    )
    return float(made.cost), (float(made.x[2]) if free else start, float(made.x[0]), float(made.x[1]))


def _range(x: Array, losses: Sequence[Sequence[float]], means: Array) -> tuple[float, float]:
    """Every L_inf with which the law fits the means about as well as with the best, by their noise over seeds."""
    degrees = sum(len(each) - 1 for each in losses)
    if degrees < 1:
        return 0.0, _NEAR * float(means.min())
    spread = sum(float(np.var(np.log(each), ddof=1)) * (len(each) - 1) for each in losses if len(each) > 1) / degrees
    error = np.sqrt(max(spread, 1e-12) / np.array([len(each) for each in losses]))
    grid = np.linspace(0, _NEAR * float(means.min()), _GRID)
    misfit = np.array([_misfit(x, means, error, floor) for floor in grid])
    spare = max(1.0, float(misfit.min()) / max(len(x) - 3, 1))
    allowed = misfit.min() + spare * float(stats.f.ppf(0.95, 1, degrees))
    (fits,) = np.nonzero(misfit <= allowed)
    return float(grid[max(fits[0] - 1, 0)]), float(grid[min(fits[-1] + 1, _GRID - 1)])


def _misfit(x: Array, means: Array, error: Array, floor: float) -> float:
    """The sum of squares of the logarithms, in standard errors, of the best law with this floor."""
    above = np.log(means - floor)
    weight = ((means - floor) / means / error) ** 2  # an error of log L is a larger one of log (L - floor)
    slope, height = np.polyfit(x, above, 1, w=np.sqrt(weight))
    predicted = np.log(floor + np.exp(height + min(slope, 0.0) * x))
    return float((((predicted - np.log(means)) / error) ** 2).sum())
