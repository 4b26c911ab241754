"""Which partial choices can still be completed without a rule being broken: a small search with propagation.

What is still open is one whole number, a bit for each level of each factor, so that a choice is a few operations on
it. A rule is then a *ban*: not all of its factors may have a level among those that it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
        self.everything = sum(self.levels)
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
