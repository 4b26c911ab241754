"""Every combination: shows each interaction, and grows with the product of the numbers of levels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from ablab.study.designs.combined import Combined, Row, Space


@dataclass(frozen=True, kw_only=True)
class Factorial(Combined):
    """The Cartesian product, the last factor fastest. The reference has the first level of every factor."""

    def _rows(self, space: Space) -> Iterable[Row]:
        return itertools.product(*map(range, space.sizes))
