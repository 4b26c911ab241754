"""Few rows in which every pair of levels of two factors occurs: a greedy covering array of strength two.

Rules forbid partial choices: which can still be completed is found by a small search with propagation.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

Ban = Mapping[int, Iterable[int]]  # of each factor that a rule is about: its place, and the levels that the rule names
_Masks = list[tuple[int, int, int]]  # the same: factor, all its levels and those named, as bits


class Admissible:
    """The choices from factors of these sizes under these bans.

    Args:
        sizes: levels of each factor.
        bans: one that names no factor forbids everything.
    """

    def __init__(self, sizes: Sequence[int], bans: Sequence[Ban]) -> None:
        self.sizes = tuple(sizes)
        self.offsets = (0, *accumulate(sizes))[: len(sizes)]
        self.levels = [(2**size - 1) << offset for size, offset in zip(sizes, self.offsets, strict=True)]
        self.everything: int = sum(self.levels)
        self._bans = [[self._masks(factor, named) for factor, named in ban.items()] for ban in bans]
        self.bans_of = [
            [ban for ban in self._bans if any(f == factor for f, _, _ in ban)] for factor in range(len(sizes))
        ]

    def _masks(self, factor: int, named: Iterable[int]) -> tuple[int, int, int]:
        return factor, self.levels[factor], sum(self.bit(factor, level) for level in set(named))

    def bit(self, factor: int, level: int) -> int:
        return 1 << (self.offsets[factor] + level)

    def chosen(self, open_: int, factor: int, bit: int) -> int:
        """What is open after a level of the factor is chosen, without what the bans then rule out at once.

        Returns:
            0 if the level was not open, or that leaves a factor without a level.
        """
        if not open_ & bit:
            return 0
        return self._narrowed(open_ & ~self.levels[factor] | bit, self.bans_of[factor])

    def having(self, levels: Iterable[tuple[int, int]]) -> int:
        """What is open after levels are chosen, each given as (factor, level); 0 if that is nothing."""
        open_ = self.everything
        for factor, level in levels:
            open_ = self.chosen(open_, factor, self.bit(factor, level))
        return open_

    def completable(self, open_: int) -> bool:
        """Whether a level of each factor can be chosen among the open ones."""
        return self._search(self._narrowed(open_, self._bans), self._bans)

    def _search(self, open_: int, bans: Sequence[_Masks]) -> bool:
        """The same, of what is narrowed; only these bans may still bite."""
        if not open_:
            return False
        for place, ban in enumerate(bans):
            if all(open_ & named for _, _, named in ban):
                factor, whole, named = next(part for part in ban if open_ & part[1] & ~part[2])
                evading, bitten = open_ & ~named, open_ & (named | ~whole)
                return any(
                    self._search(self._narrowed(o, self.bans_of[factor]), bans[place:]) for o in (evading, bitten)
                )
        return True

    def _narrowed(self, open_: int, bans: Sequence[_Masks]) -> int:
        """What is open without what follows from these bans, and from others through them; 0 if nothing can be."""
        waiting = list(bans)
        while waiting:
            free = [(factor, named) for factor, whole, named in waiting.pop() if open_ & whole & ~named]
            if not free:  # no factor can evade the ban
                return 0
            factor, named = free[0]
            if len(free) == 1 and open_ & named:
                open_ &= ~named
                waiting += self.bans_of[factor]
        return open_


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
