"""Whole studies, tuned and compared anew each time: how often an interval holds the effect of tuned variants.

A run's value is the response of its side to the rate, plus a part that all runs of its seed share, plus its own; the
standard deviation of a run is 1. The response is a parabola in the steps of the grid, some with a cliff behind it. The
effect that an interval is to hold is the mean over tunings: what a tuning like this one and its comparison find on
average (`ablab.analysis.choice_noise`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablab.analysis.choice_noise import choice_error
from ablab.analysis.estimates import paired
from ablab.analysis.responses import response
from ablab.analysis.tuned import Tuned
from ablab.config.tune import RATE

FloatArray = NDArray[np.float64]
CORRELATION = 0.8  # of two runs of one seed
WIDEST = 3  # steps beyond the grid at either side that a response is known for
PLACES = ((0.0, 0.5), (0.25, -0.25), (0.4, 0.1), (-0.1, 0.3))  # of the two optima, in steps from the grid's middle


@dataclass(frozen=True)
class Kind:
    """One kind of study."""

    rates: int
    tuning_seeds: int
    seeds: int
    curvature: float  # by which a run gets worse at one step from its optimum, in standard deviations of a run
    cliff: float = 1.0  # how much steeper it is at rates above the optimum
    off: float = 0.0  # the optima lie so many steps from the middle of the grid, perhaps outside of it
    extend: int = 0  # steps
    wild: float = 0.0  # by which a run's own part grows with each standard deviation that it is worse

    def responses(self, place: tuple[float, float]) -> list[FloatArray]:
        steps = np.arange(-WIDEST, self.rates + WIDEST) - (self.rates - 1) / 2
        found = []
        for optimum in place:
            beyond = steps - optimum - self.off
            found.append(self.curvature * np.where(beyond > 0, self.cliff, 1.0) * beyond**2)
        return found


@dataclass(frozen=True)
class Coverage:
    """The share of studies whose interval holds the effect."""

    plain: float  # of paired t, as if the rates had been given
    nested: float  # with what choosing adds
    of_best: float  # the same, of the difference between the two at their truly best rates
    width: float  # of the nested interval, in plain ones
    studies: int


def noise(
    generator: np.random.Generator, seeds: int, response: FloatArray, of_seed: FloatArray, wild: float = 0.0
) -> FloatArray:
    """[seed, point], of mean 0."""
    own = generator.standard_normal((seeds, len(response))) * (1 + wild * response)
    return math.sqrt(CORRELATION) * of_seed + math.sqrt(1 - CORRELATION) * own


def tuned(kind: Kind, sides: list[FloatArray], generator: np.random.Generator) -> tuple[list[FloatArray], slice]:
    """The tuning runs of both sides at every rate, and the part of the grid that was tried: one budget for both."""
    of_seed = generator.standard_normal((kind.tuning_seeds, 1))
    values = [side + noise(generator, kind.tuning_seeds, side, of_seed, kind.wild) for side in sides]
    low, high = WIDEST, WIDEST + kind.rates
    least, most = low - kind.extend, high + kind.extend
    while True:
        best = [low + int(each[:, low:high].mean(0).argmin()) for each in values]
        grown = max(least, low - (low in best)), min(most, high + (high - 1 in best))
        if grown == (low, high):
            return values, slice(low, high)
        low, high = grown


def told(values: FloatArray) -> Tuned:
    """Tuning runs as a record has them."""
    rates = [10.0 ** (place / 2) for place in range(values.shape[1])]
    points = tuple(
        ({RATE: rate}, {"loss": tuple(column)}) for rate, column in zip(rates, values.T.tolist(), strict=True)
    )
    best = rates[int(values.mean(0).argmin())]
    seeds = tuple(range(len(values)))
    return Tuned({RATE: best}, points, seeds, "loss", 1, None, {}, (), (), "")


def effect(kind: Kind, sides: list[FloatArray]) -> float:
    """The effect on average over tunings."""
    generator = np.random.default_rng(99)
    if not kind.extend:
        return float(np.subtract(*(_chosen_on_average(kind, side, generator) for side in sides)))
    found = []
    for _ in range(3000):
        values, tried = tuned(kind, sides, generator)
        own, base = (
            side[tried][int(each[:, tried].mean(0).argmin())] for side, each in zip(sides, values, strict=True)
        )
        found.append(own - base)
    return float(np.mean(found))


def _chosen_on_average(kind: Kind, side: FloatArray, generator: np.random.Generator) -> float:
    """What a side comes to on average, where its grid does not depend on the other's."""
    tried = side[WIDEST : WIDEST + kind.rates]
    own = math.sqrt((1 - CORRELATION) / kind.tuning_seeds) * (1 + kind.wild * tried)
    means = tried + own * generator.standard_normal((40_000, kind.rates))
    return float(tried[means.argmin(1)].mean())


def coverage(kind: Kind, studies: int, key: int = 0) -> Coverage:
    """Simulate so many studies, a share of them for each of `PLACES`."""
    generator = np.random.default_rng([kind.rates, kind.tuning_seeds, kind.seeds, key])
    held = np.zeros((studies, 3))
    widths = np.zeros(studies)
    for place in range(len(PLACES)):
        sides = kind.responses(PLACES[place])
        truth, best = effect(kind, sides), float(sides[0].min() - sides[1].min())
        for study in range(place, studies, len(PLACES)):
            values, tried = tuned(kind, sides, generator)
            known = [told(each[:, tried]) for each in values]
            at = [side[tried][int(each[:, tried].mean(0).argmin())] for side, each in zip(sides, values, strict=True)]
            of_seed = generator.standard_normal((kind.seeds, 1))
            own, base = (level + noise(generator, kind.seeds, np.zeros(1), of_seed) for level in at)
            differences = (own - base)[:, 0].tolist()
            parts = [
                (sign, found)
                for sign, each in zip((1.0, -1.0), known, strict=True)
                if (found := response(each, "loss"))
            ]
            plain, nested = paired(differences), paired(differences, choice_error(parts, differences))
            for column, (estimate, wanted) in enumerate(((plain, truth), (nested, truth), (nested, best))):
                low, high = estimate.interval()
                held[study, column] = low <= wanted <= high
            widths[study] = nested.standard_error / plain.standard_error
    return Coverage(*held.mean(0).tolist(), width=float(np.median(widths)), studies=studies)
