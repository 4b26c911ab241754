"""One change at a time: what each does to the baseline by itself. Blind to interactions, and the cheapest to read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ablab.study.designs.combined import Combined, Row, Space


@dataclass(frozen=True, kw_only=True)
class OneFactor(Combined):
    """The first level of every factor, which is the reference; then each other level by itself."""

    def _rows(self, space: Space) -> Iterable[Row]:
        yield space.first
        for place, size in enumerate(space.sizes):
            for level in range(1, size):
                yield (*space.first[:place], level, *space.first[place + 1 :])
