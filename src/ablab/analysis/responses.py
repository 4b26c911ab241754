"""How one side of a comparison responds to what was tuned: its tuning runs, and the directions that responses have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ablab.analysis.estimates import FloatArray
from ablab.analysis.tuned import Tuned
from ablab.config.value_types import is_number

_DEPENDENT = 1e-6  # of a direction that is left when the others are taken away: less is nothing


@dataclass(frozen=True)
class Response:
    """The tuning runs of one side, as far as they all ended well."""

    points: tuple[Mapping[str, Any], ...]
    values: FloatArray  # [tuning seed, point], of the metric that is compared
    scores: FloatArray  # the same of the metric that decided, less is better
    chosen: int  # point

    def at(self, places: Sequence[int]) -> Response:
        """The response at some of the points, the chosen one among them."""
        of_points = tuple(self.points[place] for place in places)
        return Response(of_points, self.values[:, places], self.scores[:, places], list(places).index(self.chosen))

    @cached_property
    def basis(self) -> tuple[FloatArray, int]:
        """[point, direction], orthonormal: constant, smooth ones, rest; and how many are smooth."""
        return _basis(self.points)

    @cached_property
    def of_itself(self) -> bool:
        """Whether the metric that is compared is the one that decided."""
        return bool(np.array_equal(np.abs(self.values), np.abs(self.scores)))

    @property
    def degrees(self) -> int:
        seeds, points = self.values.shape
        return (int(seeds) - 1) * (int(points) - 1)


def residual_squares(values: FloatArray) -> float:
    """The sum of squared residuals from seed plus point."""
    rest = values - values.mean(0) - values.mean(1)[:, None] + values.mean()
    return float((rest**2).sum())


def response(tuned: Tuned, metric: str) -> Response | None:
    """The response of a side; None where fewer than two points or seeds say something of the metric."""
    places, chosen = tuned.complete(metric), tuned.chosen
    if chosen not in places or len(places) < 2 or len(tuned.seeds) < 2:
        return None
    values = np.array([tuned.values(place, metric) for place in places], dtype=float).T
    decided = np.array([tuned.values(place, tuned.metric or metric) for place in places], dtype=float).T
    points = tuple(tuned.points[place][0] for place in places)
    return Response(points, values, tuned.sign * decided, places.index(chosen))


def _basis(points: Sequence[Mapping[str, Any]]) -> tuple[FloatArray, int]:
    """An orthonormal basis of responses at these points, and how many of its directions are smooth ones."""
    columns = [np.ones(len(points))]
    for key in points[0]:
        column = _scaled([point[key] for point in points])
        columns += [] if column is None else [column, column**2]
    found: list[FloatArray] = []
    smooth = 0
    for place, column in enumerate([*columns, *np.eye(len(points))]):
        rest = column - sum((column @ known * known for known in found), np.zeros(len(points)))
        size = float(np.linalg.norm(rest))
        if len(found) < len(points) and size > _DEPENDENT * float(np.linalg.norm(column)):
            found.append(rest / size)
        if place < len(columns):
            smooth = len(found) - 1
    return np.stack(found, 1), smooth


def _scaled(values: Sequence[object]) -> FloatArray | None:
    """The values of a key between -1 and 1, by their logarithms where all are positive; None for words."""
    if not all(map(is_number, values)):
        return None
    numbers = np.array(values, dtype=float)
    numbers = np.log(numbers) if (numbers > 0).all() else numbers
    spread = float(np.ptp(numbers))
    return (2 * (numbers - numbers.min()) / spread - 1) if spread else None
