"""Few rows in which every pair of levels of two factors occurs: a greedy covering array of strength two.

Rows are built one by one, as AETG does (Cohen, Dalal, Fredman and Patton 1997): each begins with a pair that is still
missing, goes through the other factors in a random order, and takes of each the level that makes most missing pairs;
of several such rows the best is kept. It deviates in the look-ahead, which never takes a level with which the row could
not be completed, and in that whole arrays are built several times, of which the smallest is kept. Chance is seeded:
the same factors have the same rows.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator

from ablab.study.designs.admissible import Admissible

CANDIDATES = 12  # for each row
ARRAYS = 60  # at most
EFFORT = 150_000  # looks at a level or a ban, after which no further array is begun

Pair = tuple[tuple[int, int], tuple[int, int]]  # each a factor and a level of it


def covering_rows(space: Admissible) -> tuple[list[tuple[int, ...]], list[Pair]]:
    """Admissible rows that hold every possible pair, sorted, and the pairs that are in no admissible row.

    The row of all first levels is one of them; it must be admissible.
    """
    pairs = list(_pairs(space.sizes))
    possible = [pair for pair in pairs if space.completable(space.having(pair))]
    chance, looks = random.Random(0), 0
    arrays: list[list[int]] = []
    fewest = max(Counter((one, other) for (one, _), (other, _) in possible).values())  # rows for two factors alone
    while len(arrays) < ARRAYS and looks < EFFORT and min(map(len, arrays), default=fewest + 1) > fewest:
        array = _Array(space, possible, chance)
        array.fill()
        arrays.append(array.rows)
        looks += array.looks
    rows = (tuple(_levels(row & whole)[0] for whole in space.levels) for row in min(arrays, key=len))
    found = sorted(tuple(level - offset for level, offset in zip(row, space.offsets, strict=True)) for row in rows)
    held = set(possible)
    return found, [pair for pair in pairs if pair not in held]


class _Array:
    """Rows in the making. Levels are numbered through all factors, and a row is the set of its levels, as bits."""

    def __init__(self, space: Admissible, wanted: list[Pair], chance: random.Random) -> None:
        self.space, self.draw = space, chance.random  # whose numbers are the same in every version of Python
        self.factor_of = [factor for factor, size in enumerate(space.sizes) for _ in range(size)]
        self.missing = [0] * len(self.factor_of)  # by level: those that it should be in a row with, and is not yet
        self.rows: list[int] = []
        self.looks = 0
        for one, other in wanted:
            self.missing[space.offsets[one[0]] + one[1]] |= space.bit(*other)
            self.missing[space.offsets[other[0]] + other[1]] |= space.bit(*one)

    def fill(self) -> None:
        """Add the first levels, and then rows until no pair is missing."""
        self._add(sum(self.space.bit(factor, 0) for factor in range(len(self.space.sizes))))
        while any(self.missing):
            self._add(max((self._candidate() for _ in range(CANDIDATES)), key=self._gain))

    def _add(self, row: int) -> None:
        self.rows.append(row)
        for level in _levels(row):
            self.missing[level] &= ~row

    def _gain(self, row: int) -> int:
        return sum((self.missing[level] & row).bit_count() for level in _levels(row))

    def _candidate(self) -> int:
        """A row with at least one missing pair, which is possible and so can be completed."""
        space = self.space
        first = max(range(len(self.missing)), key=self._need)
        second = max(_levels(self.missing[first]), key=lambda _: self.draw())
        open_ = space.everything
        for level in (first, second):
            open_ = space.chosen(open_, self.factor_of[level], 1 << level)
        rest = set(range(len(space.sizes))) - {self.factor_of[first], self.factor_of[second]}
        return self._completed(1 << first | 1 << second, open_, sorted(rest, key=lambda _: self.draw()))

    def _completed(self, row: int, open_: int, factors: list[int]) -> int:
        """The row with a level of each of the factors, always one of those that make most missing pairs with it.

        Returns:
            0 if no levels that are open make an admissible row.
        """
        if not factors:
            return row
        factor, *rest = factors
        levels = _levels(open_ & self.space.levels[factor])
        self.looks += len(levels) + len(self.space.bans_of[factor])
        for level in sorted(levels, key=lambda level: self._worth(level, row), reverse=True):
            after = self.space.chosen(open_, factor, 1 << level)
            found = after and self._completed(row | 1 << level, after, rest)
            if found:
                return found
        return 0

    def _need(self, level: int) -> tuple[int, float]:
        return self.missing[level].bit_count(), self.draw()

    def _worth(self, level: int, row: int) -> tuple[int, float]:
        return (self.missing[level] & row).bit_count(), self.draw()


def _pairs(sizes: tuple[int, ...]) -> Iterator[Pair]:
    for one, other in itertools.combinations(range(len(sizes)), 2):
        for levels in itertools.product(range(sizes[one]), range(sizes[other])):
            yield (one, levels[0]), (other, levels[1])


def _levels(bits: int) -> list[int]:
    found = []
    while bits:
        found.append((bits & -bits).bit_length() - 1)
        bits &= bits - 1
    return found
