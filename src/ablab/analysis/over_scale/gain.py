"""The compute-equivalent gain: by how much more compute the baseline would do as well as a variant does.

By the baseline's law L = L_inf + A C^-alpha, a variant whose loss is L_variant where the baseline's is L_base has the
gain ((L_base - L_inf) / (L_variant - L_inf))^(1/alpha): 1.2 is what the baseline has with 1.2 times the compute. A
variant that costs more FLOPs than the baseline at the same size has to have that much gain to break even; `net` is the
gain divided by it.

Intervals are over seeds, of the logarithm: each seed is left out in turn, from both sides and from the law, which is
fitted anew (jackknife; of a mean it is the paired t interval). On top come what choosing settings by tuning adds to the
effect, and what the sizes do not say of L_inf: how far the gain moves to either side at both ends of what that may be.
The nearer it is to the losses, the further a gain is from 1, without end where the variant's loss lies below it.

Source: the gain in compute of two laws as in Kaplan et al. (2020) and Hoffmann et al. (2022); the jackknife as in Efron
and Stein (1981).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import numpy as np
from scipy import special

from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL, FloatArray, Interval
from ablab.analysis.over_scale.curve import Curve, fit
from ablab.analysis.over_scale.ladders import Climb, Ladder

_ENDLESS = 700.0  # a logarithm whose number is as good as infinite

Pairs = dict[int, tuple[float, float]]  # seed -> (loss of the baseline, loss of the variant)


@dataclass(frozen=True)
class Gain:
    """A gain, or the factor by which it changes with each tenfold compute."""

    factor: float
    interval: Interval | None  # None with too few seeds

    @classmethod
    def of_log(cls, value: float, error: Error | None, degrees: int, level: float) -> Gain | None:
        """From a logarithm with its error."""
        if not math.isfinite(value):
            return None
        if error is None:
            return cls(_exp(value), None)
        half = -float(special.stdtrit(degrees, level / 2)) * error.standard
        return cls(_exp(value), (_exp(value - math.hypot(half, error.down)), _exp(value + math.hypot(half, error.up))))


@dataclass(frozen=True)
class Error:
    """Of the logarithm of a gain."""

    standard: float  # over seeds, and by what was chosen
    down: float  # how far it moves to either side with L_inf
    up: float

    def with_choice(self, variance: float) -> Error:
        return replace(self, standard=math.sqrt(self.standard**2 + variance))


@dataclass(frozen=True)
class Gains:
    """Of a variant at each of its sizes; None where it is better than any compute would make the baseline."""

    at: tuple[Gain | None, ...]
    net: tuple[Gain | None, ...]  # divided by the variant's FLOPs over the baseline's
    slope: Gain | None  # the factor with each tenfold compute


class GainsOf:
    """Makes the gains of all variants of a ladder, which share the baseline's laws."""

    def __init__(self, ladder: Ladder, level: float = LEVEL) -> None:
        self.ladder, self.level = ladder, level
        self._values = [ladder.values.get((ladder.baseline, rung.name), {}) for rung in ladder.rungs]
        self.sign = 1.0 if ladder.direction == "min" else -1.0
        self.offset = 0.0 if ladder.direction == "min" else ladder.limit
        self._known = ladder.limit if ladder.direction == "min" else 0.0
        self.curve = self._fitted(None, self._known)
        self._left_out: dict[int, Curve | None] = {}

    def loss(self, value: float) -> float:
        """The value as a loss: what is better is smaller."""
        return value if self.offset is None else self.offset + self.sign * value

    def value(self, loss: float) -> float:
        return loss if self.offset is None else self.sign * (loss - self.offset)

    def _fitted(self, without: int | None, floor: float | None, like: Curve | None = None) -> Curve | None:
        """The baseline's law; None where there is none."""
        if self.offset is None:
            return None
        losses = [[self.loss(value) for seed, value in each.items() if seed != without] for each in self._values]
        return law([rung.flops for rung in self.ladder.rungs], losses, floor, like)

    def _without(self, seed: int) -> Curve | None:
        if seed not in self._left_out:
            self._left_out[seed] = self._fitted(seed, self._known, self.curve)
        return self._left_out[seed]

    def law_of(self, variant: str) -> Curve | None:
        """A variant's own law, as it is drawn."""
        values = [self.ladder.values.get((variant, rung.name), {}) for rung in self.ladder.rungs]
        if self.offset is None:
            return None
        losses = [[self.loss(value) for value in each.values()] for each in values]
        return law([rung.flops for rung in self.ladder.rungs], losses, self._known, self.curve)

    def of(self, climb: Climb) -> Gains | None:
        """The gains of a variant; None where the baseline has no law."""
        if self.curve is None:
            return None
        pairs = [self._pairs(climb, place) for place in range(len(climb.rungs))]
        whole = _logs(self.curve, pairs)
        seeds = sorted({seed for each in pairs for seed in each})
        laws = [(seed, self._without(seed)) for seed in seeds]
        left = [_logs(each, pairs, seed) for seed, each in laws if each is not None]
        costs = [math.log(cost) if cost > 0 else math.nan for cost in climb.cost]
        x = np.log10(climb.compute)
        floors = [_logs(each, pairs) for each in self._ends]
        errors = [
            _error([each[place] for each in left], [each[place] for each in floors], whole[place], len(pairs[place]))
            for place in range(len(whole))
        ]
        degrees = [max(len(each) - 1, 1) for each in pairs]
        slope = _slope(x, whole)
        ends = [_slope(x, np.clip(each, -_ENDLESS, _ENDLESS)) for each in floors]
        error = _error([_slope(x, each) for each in left], ends, slope, len(seeds))
        chosen = _of_choice(self.curve, pairs, climb)
        errors = [e and e.with_choice(float(chosen[place, place])) for place, e in enumerate(errors)]
        if error is not None and math.isfinite(slope):
            along = np.array([_slope(x, one) for one in np.where(np.isfinite(whole), np.eye(len(x)), np.nan)])
            error = error.with_choice(float(along @ chosen @ along))
        of_log = Gain.of_log
        return Gains(
            tuple(of_log(v, e, d, self.level) for v, e, d in zip(whole, errors, degrees, strict=True)),
            tuple(of_log(v - c, e, d, self.level) for v, c, e, d in zip(whole, costs, errors, degrees, strict=True)),
            of_log(slope, error, max(len(seeds) - 1, 1), self.level),
        )

    def _pairs(self, climb: Climb, place: int) -> Pairs:
        item = climb.items[place]
        values = zip(item.seeds, item.baseline_values, item.differences, strict=True)
        return {seed: (self.loss(base), self.loss(base + difference)) for seed, base, difference in values}

    @cached_property
    def _ends(self) -> list[Curve]:
        """The laws at both ends of what L_inf may be."""
        if self.curve is None or self.curve.floor_known:
            return []
        found = [self._fitted(None, floor, self.curve) for floor in self.curve.floor_range]
        return [each for each in found if each is not None]


def law(
    compute: Sequence[float],
    losses: Sequence[Sequence[float]],
    floor: float | None = None,
    like: Curve | None = None,
) -> Curve | None:
    """The law of losses that are positive and, where a floor is given, above it on average; None where they make none.

    A single loss may lie below the floor: what L_inf may be reaches up to the least mean over seeds.
    """
    there = [(c, each) for c, each in zip(compute, losses, strict=True) if each]
    if len({c for c, _ in there}) < 2 or min(min(each) for _, each in there) <= 0:
        return None
    if floor is not None and min(fmean(each) for _, each in there) <= floor:
        return None
    found = fit([c for c, _ in there], [each for _, each in there], floor, ranged=like is None, like=like)
    return found if found.alpha > 1e-6 else None


def _logs(curve: Curve, pairs: Sequence[Pairs], without: int | None = None) -> list[float]:
    """Logarithms of the gain at each size: infinite where one side alone is below L_inf, NaN where both are."""
    found = []
    for each in pairs:
        left = [pair for seed, pair in each.items() if seed != without]
        base, own = (fmean(side) - curve.floor for side in zip(*left, strict=True)) if left else (math.nan, math.nan)
        if base > 0 and own > 0:
            found.append(math.log(base / own) / curve.alpha)
        else:
            found.append(math.inf if base > 0 else -math.inf if own > 0 else math.nan)
    return found


def _error(left_out: Sequence[float], floors: Sequence[float], whole: float, seeds: int) -> Error | None:
    """The jackknife's error, and how far the ends of L_inf move it."""
    there = np.array([value for value in left_out if math.isfinite(value)])
    if seeds < FEWEST_SEEDS or len(there) < FEWEST_SEEDS:
        return None
    jackknife = (len(there) - 1) / len(there) * float(((there - there.mean()) ** 2).sum())
    clipped = [each for value in floors for each in ((-_ENDLESS, _ENDLESS) if math.isnan(value) else (value, value))]
    shifts = [min(max(value, -_ENDLESS), _ENDLESS) - whole for value in clipped]  # both sides below an end: either way
    return Error(math.sqrt(jackknife), down=-min(0.0, *shifts, 0.0), up=max(0.0, *shifts, 0.0))


def _of_choice(curve: Curve, pairs: Sequence[Pairs], climb: Climb) -> FloatArray:
    """The covariance of what choosing by tuning adds to the logarithms, to first order in the variant's loss."""
    losses = [fmean(own for _, own in each.values()) - curve.floor if each else math.nan for each in pairs]
    by_loss = np.array([1 / (curve.alpha * own) if own > 0 else 0.0 for own in losses])
    return np.asarray(climb.choice * np.outer(by_loss, by_loss))


def _slope(x: FloatArray, logs: Sequence[float] | FloatArray) -> float:
    """Of the logarithm with each tenfold compute."""
    y = np.asarray(logs)
    known = np.isfinite(y)
    return float(np.polyfit(x[known], y[known], 1)[0]) if known.sum() > 1 else math.nan


def _exp(value: float) -> float:
    return math.exp(min(max(value, -_ENDLESS), _ENDLESS))
