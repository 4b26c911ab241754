"""Any false verdict at any of several planned looks, where no variant does anything.

Without any effect a study errs where the smallest sequential p over its comparisons and looks is below the level over
the number of comparisons (Holm's first step): where any t test is significant at the level of its look. That is counted
here over `TIMES` as many studies as in other rows, so over a million. Every subset of the planned looks is covered: the
levels of a planned boundary do not depend on which of its looks are made, so that all of them together are the worst
case; those of spending functions do, and are counted for each subset.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from simulated import NOISES, VARIANTS, Cell, Row, tables

from ablab.analysis.estimates import LEVEL
from ablab.analysis.looks import Looks, planned_looks
from ablab.config.seeds import Spending

LOOKS = (3, 5, 8, 10)
TIMES, BLOCK = 525, 25_000
FIXED: tuple[Spending, ...] = ("pocock", "obrien_fleming", "anytime")
SPENT: tuple[Spending, ...] = ("lan_demets_pocock", "lan_demets_obf")


def row(studies: int) -> Row:
    cells = [cell for variants in VARIANTS for noise in NOISES for cell in _cells(studies * TIMES, variants, noise)]
    return Row("looks", "any BETTER or WORSE at any look, no variant does anything", LEVEL, cells)


def _cells(studies: int, variants: int, noise: str) -> list[Cell]:
    """One for each way of sharing out the level; of several subsets of looks the worst one."""
    designs = {spending: [_critical(LOOKS, spending, variants)] for spending in FIXED}
    subsets = [each for count in range(1, len(LOOKS) + 1) for each in itertools.combinations(LOOKS, count)]
    designs |= {spending: [_critical(each, spending, variants) for each in subsets] for spending in SPENT}
    wrong = {spending: np.zeros(len(bounds)) for spending, bounds in designs.items()}
    blocks = math.ceil(studies / BLOCK)
    size = min(studies, BLOCK)
    for block in range(blocks):
        largest = _largest_t(tables(size, variants, max(LOOKS), noise, key=block))
        for spending, bounds in designs.items():
            wrong[spending] += [(largest > bound).any(axis=1).sum() for bound in bounds]
    who = f"{variants} variant{'s' if variants > 1 else ''}"
    return [
        Cell(f"{who}, {noise}, {spending}", float(found.max()) / (blocks * size), blocks * size)
        for spending, found in wrong.items()
    ]


def _critical(made: Sequence[int], spending: Spending, variants: int) -> NDArray[np.float64]:
    """|t| at each of `LOOKS` beyond which a study of so many comparisons claims something; infinite if not made."""
    looks = planned_looks(LOOKS, spending)
    if spending in SPENT:
        looks = Looks(tuple(tuple(range(size)) for size in made), len(made) - 1, (), max(LOOKS), spending)
    levels = dict(zip(looks.sizes, looks.levels(LEVEL / variants), strict=True))
    return np.array([stats.t.isf(levels[size] / 2, size - 1) if size in made else math.inf for size in LOOKS])


def _largest_t(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[studies, looks] the largest |t| over the variants."""
    differences = values[:, 1:] - values[:, :1]
    sums, squares = differences.cumsum(2), np.square(differences).cumsum(2)
    found = []
    for size in LOOKS:
        total, within = sums[:, :, size - 1], squares[:, :, size - 1]
        share = total**2 / (size * within)  # t^2 is this over what is left of 1, times the degrees
        found.append(np.sqrt((size - 1) * share / np.maximum(1 - share, 1e-12)).max(1))
    return np.stack(found, axis=1)
