"""Group-sequential boundaries of the paired t: which p a study may call significant at each of several looks.

A look is an analysis of the seeds that there are by then. Who looks often, at p < .05 each time, claims falsely in far
more than 5% of studies; a *boundary* is a level for each look under which all looks together err in `alpha`:

* Pocock (1977): the same level at every look.
* O'Brien and Fleming (1979): nearly nothing at first, nearly all at the last look, levels by Phi(c / sqrt(t)).
* Lan and DeMets (1983): for looks that were not fixed beforehand. A function says how much of `alpha` may be spent up
  to each share t of the seeds that there will be at most; each look has what is left of that.

Textbook constants hold for known variances, and at 3 seeds the t distribution is far from normal. So boundaries are
found by simulation here (`ablab.analysis.simulated_looks`): each look has the degrees of freedom of its own pairs.

Sources: Jennison and Turnbull (1999), "Group Sequential Methods"; Maurer and Bretz (2013) for `Boundary.p_value`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import special

from ablab.analysis.estimates import FloatArray
from ablab.analysis.simulated_looks import (
    GRID,
    STUDIES,
    Cells,
    Ranks,
    Sides,
    least_with,
    rank_of,
    ranks_of,
    share_from,
    sizes_of,
)

# Levels of a whole study at which boundaries are computed. Between them they are interpolated, below proportional.
ALPHAS: FloatArray = np.concatenate([np.geomspace(1e-4, 0.2, 40), [0.3, 0.45, 0.7, 1.0]])
_HIGH = 40  # from this one on, where nobody decides, spent levels are interpolated up to 1

Shape = Literal["pocock", "obrien_fleming"]


@dataclass(frozen=True)
class Boundary:
    """The levels of each look, [`ALPHAS`, looks], under which a study errs in each of `ALPHAS`."""

    levels: FloatArray
    spent: FloatArray  # of the same shape: how often a study without effects has crossed by then

    def at(self, alpha: float) -> tuple[float, ...]:
        """The level of each look in a study at `alpha`."""
        if alpha < ALPHAS[0]:
            return tuple(float(level) * alpha / float(ALPHAS[0]) for level in self.levels[0])
        logs = np.log(np.maximum(self.levels, 1e-300))
        return tuple(float(np.exp(np.interp(math.log(alpha), np.log(ALPHAS), column))) for column in logs.T)

    def p_value(self, p_values: Sequence[float]) -> float:
        """The smallest alpha at which a study has crossed the boundary at one of its looks.

        Args:
            p_values: at each look so far; 1 at a look that had too few pairs.
        """
        return min((self._alpha(look, p) for look, p in enumerate(p_values)), default=1.0)

    def _alpha(self, look: int, p: float) -> float:
        levels = np.maximum(self.levels[:, look], 1e-300)
        if p >= levels[-1]:
            return 1.0
        if p < levels[0]:
            return float(ALPHAS[0] * p / levels[0])
        return float(np.exp(np.interp(math.log(p), np.log(levels), np.log(ALPHAS))))


@lru_cache(maxsize=64)
def fixed(cells: Cells, shape: Shape, sides: Sides = 2) -> Boundary:
    """The boundary of looks that were all planned, whose levels one number decides over: that of the last look."""
    sizes = sizes_of(cells)
    # A look at fewer seeds has to be this much further from zero, in normal deviates, than the last one.
    stretch = [math.sqrt(max(sizes) / size) if shape == "obrien_fleming" else 1.0 for size in sizes]
    furthest = np.zeros(STUDIES, np.uint16)
    crossed = []
    for ranks, each in zip(ranks_of(cells, sides), stretch, strict=True):
        at_last = ranks if each == 1 else rank_of(_stretched(GRID, 1 / each, sides))[ranks]
        furthest = np.maximum(furthest, at_last)
        crossed.append(share_from(furthest))
    of_last = least_with(crossed[-1], ALPHAS)
    levels = [_stretched(of_last, each, sides) for each in stretch]
    spent = [np.interp(-np.log(of_last), -np.log(GRID), share) for share in crossed]
    return Boundary(np.stack(levels, axis=1), np.stack(spent, axis=1))


def spending(cells: Cells, shape: Shape, most: int, sides: Sides = 2) -> Boundary:
    """The boundary of looks that were not planned, in a study of `most` seeds at most: Lan and DeMets.

    The functions are theirs, which spend about as Pocock's and O'Brien and Fleming's boundaries do.
    """
    share = np.minimum(np.array(sizes_of(cells)) / most, 1.0)
    alphas = ALPHAS[:, None]
    if shape == "pocock":
        return spent_as(cells, _hashable(alphas * np.log1p((math.e - 1) * share)), sides)
    tail = alphas / (2 * sides)  # the function is that of one-sided tests, which spend half of it on either side
    return spent_as(cells, _hashable(2 * sides * special.ndtr(special.ndtri(tail) / np.sqrt(share))), sides)


def departing(cells: Cells, planned: Cells, shape: Shape, sides: Sides = 2) -> Boundary:
    """The boundary of other looks than those that were planned: by each number of seeds it has spent what the planned
    one has, with straight lines between. Of the planned looks themselves it is the planned one.
    """
    plan, most = fixed(planned, shape, sides), sizes_of(planned)
    sizes = np.minimum(sizes_of(cells), max(most))
    spent = [np.interp(sizes, (0, *most), (0.0, *row)) for row in plan.spent]
    return spent_as(cells, _hashable(np.array(spent)), sides)


def _hashable(table: FloatArray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, table.tolist()))


@lru_cache(maxsize=64)
def spent_as(cells: Cells, spent: tuple[tuple[float, ...], ...], sides: Sides = 2) -> Boundary:
    """The boundary that has spent so much by each look, [`ALPHAS`, looks], cumulatively."""
    ranks = ranks_of(cells, sides)
    furthest = ranks.max(axis=0)
    order = np.argsort(furthest, kind="stable")[::-1]
    ranks, furthest = ranks[:, order], furthest[order]
    found = [
        _levels(ranks[:, : np.count_nonzero(furthest >= rank_of(np.array(alpha)))], np.array(row))
        for alpha, row in zip(ALPHAS[:_HIGH], spent[:_HIGH], strict=True)
    ]
    # A level that falls as alpha grows is noise of the simulation.
    levels = np.maximum(np.minimum.accumulate(np.array(found)[::-1])[::-1], 1e-300)
    steps = np.log(ALPHAS[_HIGH:] / ALPHAS[_HIGH - 1]) / -math.log(ALPHAS[_HIGH - 1])
    high = levels[-1] ** (1 - steps[:, None])
    return Boundary(np.concatenate([levels, high]), np.array(spent))


def _levels(ranks: Ranks, spent: FloatArray) -> list[float]:
    """The level of each look; `ranks` are those of the studies that may cross at all."""
    levels, gone, before = [], 0.0, 0.0
    for look, by_then in enumerate(spent):
        share = share_from(ranks[look])
        new = float(by_then) - before
        # At a level of what is newly spent no more than that is, whatever came before.
        level = max(float(least_with(share, np.array(max(by_then - gone, 0.0)))), new)
        crossing = ranks[look] >= rank_of(np.array(level))
        gone += np.count_nonzero(crossing) / STUDIES
        ranks, before = ranks[:, ~crossing], float(by_then)
        levels.append(min(level, 1.0))
    return levels


def error_of(cells: Cells, levels: Sequence[float], sides: Sides = 2) -> float:
    """How often a study without any effect is significant at one of its looks or more, each at a level of its own."""
    bars = rank_of(np.array(levels))
    beyond = (ranks_of(cells, sides) >= bars[:, None]).any(axis=0)
    return min(float(np.count_nonzero(beyond)) / STUDIES, math.fsum(levels))


def _stretched(p_values: FloatArray, factor: float, sides: Sides) -> FloatArray:
    """The p values of normal deviates that are `factor` times as large as those of `p_values`."""
    return np.minimum(sides * special.ndtr(factor * special.ndtri(p_values / sides)), 1.0)
