"""One change after the other, each kept: the road from the baseline to everything on, in the factors' order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ablab.study.designs.combined import Combined, Row, Space


@dataclass(frozen=True, kw_only=True)
class Cumulative(Combined):
    """The first level of every factor, which is the reference; then each further level in turn, kept from then on.

    A step that a rule forbids is left out, and the next ones go on from where it would have led.
    """

    def _rows(self, space: Space) -> Iterable[Row]:
        row = list(space.first)
        yield tuple(row)
        for place, size in enumerate(space.sizes):
            for level in range(1, size):
                row[place] = level
                yield tuple(row)
