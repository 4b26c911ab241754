"""Which points of the grids are tried, and how a grid goes on beyond its ends. Pure functions of the grids."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Literal

from ablab.config.tune import Scalar
from ablab.errors import UserError

Point = dict[str, Scalar]  # a value of each key
Grids = Mapping[str, Sequence[Scalar]]
Side = Literal["smallest", "largest"]
MOST_POINTS = 32  # of a whole grid


def points_of(grids: Grids, trials: int | None) -> list[Point]:
    """The points that every variant is tried at: the whole grid, or so many of it that spread evenly over it."""
    every = [dict(zip(grids, values, strict=True)) for values in product(*grids.values())]
    if trials is None or trials >= len(every):
        return every
    return [every[place] for place in sorted(islice(_spread(grids), trials))]


def check_size(grids: Grids, trials: int | None) -> None:
    """Raises UserError for a whole grid of more than `MOST_POINTS`, where nobody says how many of it are tried."""
    size = math.prod(len(values) for values in grids.values())
    if trials is None and size > MOST_POINTS:
        raise UserError(f"tune: the whole grid has {size:,} points for each variant; say how many by tune.trials=...")


def _spread(grids: Grids) -> Iterator[int]:
    """Yield each place of the whole grid once, so that those met so far spread evenly in every direction.

    By Halton's sequence (1960), which needs no random numbers.
    """
    sizes = [len(values) for values in grids.values()]
    bases = [base for base in range(2, 14 * len(sizes)) if all(base % each for each in range(2, base))]
    met: dict[int, None] = {}
    for number in range(1, 100 * math.prod(sizes)):
        place = 0
        for base, size in zip(bases, sizes, strict=False):
            place = place * size + int(_mirrored(number, base) * size)
        if place not in met:
            met[place] = None
            yield place
    yield from (place for place in range(math.prod(sizes)) if place not in met)


def _mirrored(number: int, base: int) -> float:
    """The digits of a number behind the point, the last one first: the van der Corput sequence."""
    found, weight = 0.0, 1 / base
    while number:
        number, digit = divmod(number, base)
        found, weight = found + digit * weight, weight / base
    return found


def projected(points: Sequence[Point], keys: Collection[str]) -> list[Point]:
    """The points of a variant that has some of the keys alone, each once."""
    found: list[Point] = []
    for point in points:
        own = {key: value for key, value in point.items() if key in keys}
        if own not in found:
            found.append(own)
    return found


def beyond(given: Sequence[Scalar], values: Sequence[Scalar], side: Side) -> float | None:
    """The next value of a grid at one of its ends, by the ratio of the grid that was given.

    None for what has no ratio: whole numbers, which are sizes, and grids with 0, words or truth values.
    """
    known = [value for value in given if isinstance(value, float) and value > 0]
    ends = [value for value in values if isinstance(value, float)]
    if len(known) < max(2, len(given)):
        return None
    ratio = (max(known) / min(known)) ** (1 / (len(known) - 1))
    following = max(ends) * ratio if side == "largest" else min(ends) / ratio
    following = float(f"{following:.3g}")
    return following if 0 < following < math.inf and following not in values else None
