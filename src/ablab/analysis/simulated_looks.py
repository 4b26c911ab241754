"""Studies without any effect, simulated: the p value of the paired t at each of their looks.

A look is a set of seeds, so that looks need not be nested. Of the seeds that the same looks have, the sum and the sum
of squares are drawn, from which t of every look follows. A p value is kept as its *rank*, a place on a logarithmic
scale of p from 1 down, the later the smaller: counting studies beyond a level is then a matter of small whole numbers,
and one simulation serves all levels and both kinds of test, two-sided and one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ablab.analysis.estimates import FloatArray

STUDIES = 2**20
_BLOCK = 2**17  # studies that are simulated at once
_SEED = 20
_RANKS = 2**14  # of a p value on a logarithmic scale from 1 down to `_LEAST`
_LEAST = 1e-8
_STEP = -math.log(_LEAST) / _RANKS
_BINS = 2**16
_SIGN = np.uint16(2**15)  # marks a negative t beside its rank

Sides = Literal[1, 2]
Cells = tuple[tuple[int, tuple[bool, ...]], ...]  # how many seeds, and which looks had them
Ranks = NDArray[np.uint16]


def cells_of(looks: Sequence[Collection[int]]) -> Cells:
    """The seeds of some looks by which of the looks had them."""
    sets = [frozenset(look) for look in looks]
    members = sorted(tuple(seed in each for each in sets) for seed in frozenset().union(*sets))
    return tuple((members.count(each), each) for each in sorted(set(members), reverse=True))


def nested(sizes: Sequence[int]) -> Cells:
    """The same for looks that have the first so many seeds each."""
    return cells_of([range(size) for size in sizes])


def sizes_of(cells: Cells) -> tuple[int, ...]:
    """How many seeds each look has."""
    return tuple(sum(count for count, members in cells if members[look]) for look in range(len(cells[0][1])))


GRID: FloatArray = np.exp(-_STEP * np.arange(_RANKS))  # the p value of each rank


def rank_of(p_values: FloatArray) -> Ranks:
    """The last rank whose p value is not below these."""
    with np.errstate(divide="ignore"):
        return np.clip(np.floor(-np.log(p_values) / _STEP + 1e-9), 0, _RANKS - 1).astype(np.uint16)


def share_from(ranks: Ranks) -> FloatArray:
    """How many studies are at each rank or beyond."""
    counts = np.bincount(ranks, minlength=_RANKS)
    return np.asarray(counts[::-1].cumsum()[::-1] / STUDIES)


def least_with(share: FloatArray, wanted: FloatArray) -> FloatArray:
    """The p value at or below which so many studies are."""
    return np.exp(-_STEP * np.interp(-wanted, -share, np.arange(_RANKS)))


def ranks_of(cells: Cells, sides: Sides) -> Ranks:
    """The rank of the p value of each look in each simulated study, [looks, `STUDIES`]."""
    ranks = _simulated(cells)
    if sides == 2:
        return ranks & ~_SIGN
    doubled = np.minimum(ranks + np.uint16(round(math.log(2) / _STEP)), _RANKS - 1)  # half the p value
    return np.where(ranks & _SIGN, np.uint16(0), doubled).astype(np.uint16)


@lru_cache(maxsize=4)  # 2 MiB a look
def _simulated(cells: Cells) -> Ranks:
    """The ranks of two-sided p values, with the sign of t beside them."""
    generator = np.random.Generator(np.random.SFC64(_SEED))
    return np.concatenate([_block(cells, generator) for _ in range(STUDIES // _BLOCK)], axis=1)


def _block(cells: Cells, generator: np.random.Generator) -> Ranks:
    """One block: of the seeds of each cell their sum and the sum of their squares, from which t of every look is made.

    t^2 / degrees is r / (1 - r) with r = sum^2 / (pairs * squares); its p value is looked up by -log(1 - r).
    """
    made = [(_normal(generator) * np.float32(math.sqrt(count)), _chi2(generator, count - 1)) for count, _ in cells]
    whole = [
        squares + total * total / np.float32(count) for (total, squares), (count, _) in zip(made, cells, strict=True)
    ]
    found = []
    for look, pairs in enumerate(sizes_of(cells)):
        had = [place for place, (_, members) in enumerate(cells) if members[look]]
        total, squares = sum(made[place][0] for place in had), sum(whole[place] for place in had)
        share = np.minimum(total * total / (np.float32(pairs) * squares), np.float32(1 - 1e-7))
        ranks, scale = _ranks_by_distance(pairs)
        at = (-np.log1p(-share) * np.float32(scale)).astype(np.int32)
        found.append(ranks[np.minimum(at, _BINS - 1)] | np.where(total < 0, _SIGN, np.uint16(0)))
    return np.stack(found)


@lru_cache(maxsize=256)
def _ranks_by_distance(pairs: int) -> tuple[Ranks, float]:
    """The ranks of the p values at equal steps of -log(1 - r), and how many steps are one."""
    degrees = pairs - 1
    furthest = -math.log(float(special.betaincinv(degrees / 2, 0.5, _LEAST)))
    distances = np.arange(_BINS) * furthest / _BINS
    return rank_of(special.betainc(degrees / 2, 0.5, np.exp(-distances))), _BINS / furthest


def _normal(generator: np.random.Generator) -> NDArray[np.float32]:
    return generator.standard_normal(_BLOCK, dtype=np.float32)


def _chi2(generator: np.random.Generator, degrees: int) -> NDArray[np.float32]:
    if degrees == 0:
        return np.zeros(_BLOCK, np.float32)
    if degrees == 1:
        return _normal(generator) ** 2
    return 2 * generator.standard_gamma(degrees / 2, _BLOCK, dtype=np.float32)
