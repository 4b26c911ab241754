"""What the tuning of a run found, as its record tells it: every point that was tried, with its values by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from ablab.config import Node
from ablab.config.tune import RATE
from ablab.config.value_types import is_number
from ablab.results.collect import Runs
from ablab.results.record import Record
from ablab.results.run_context import edge_of

Values = tuple[float | None, ...]  # by tuning seed; None where a run did not end well


@dataclass(frozen=True)
class Tuned:
    """The tuning of one run."""

    settings: Mapping[str, Any]  # that were chosen, by dotted key
    points: tuple[tuple[Mapping[str, Any], Mapping[str, Values]], ...]  # settings, and the values of each metric
    seeds: tuple[int, ...]
    metric: str | None  # that decided; None of earlier versions, which kept means alone
    sign: int  # of the metric such that less is better
    max_steps: int | None  # of the tuning runs; None: as many as are compared
    extended: Mapping[str, list[int]]
    lacking: tuple[str, ...]  # keys that are tuned for others
    means: tuple[tuple[float, float | None], ...]  # of rates, of earlier versions
    told: str  # all of it as it stands in the record

    @property
    def tried(self) -> tuple[tuple[tuple[str, Any], ...], ...]:
        """The points, to be held against those of another run."""
        return tuple(tuple(settings.items()) for settings, _ in self.points) or tuple(
            ((RATE, rate),) for rate, _ in self.means
        )

    @cached_property
    def chosen(self) -> int | None:
        """The place of what was chosen among the points."""
        return next((place for place, (point, _) in enumerate(self.points) if dict(point) == dict(self.settings)), None)

    def grid(self, key: str) -> list[Any]:
        """The values of a key that were tried, numbers in ascending order."""
        found = list(dict.fromkeys(dict(point)[key] for point in self.tried if key in dict(point)))
        return sorted(found) if all(map(is_number, found)) else found

    @property
    def edges(self) -> list[tuple[str, Any, str]]:
        """The chosen numbers at an end of their grid, and at which; nothing lies beyond 0."""
        numbers = {key: value for key, value in self.settings.items() if is_number(value) and value}
        grids = {key: grid for key in numbers if all(map(is_number, grid := self.grid(key)))}
        return [(key, numbers[key], edge) for key, grid in grids.items() if (edge := edge_of(numbers[key], grid))]

    def values(self, place: int, metric: str) -> Values:
        """Of the point in some place; empty where the metric is not known of it."""
        return self.points[place][1].get(metric, ())

    def at(self, key: str, value: Any, metric: str) -> Values | None:
        """What the chosen point came to with another value of one key; None where that was not tried."""
        wanted = {**self.settings, key: value}
        return next((values.get(metric, ()) for point, values in self.points if dict(point) == wanted), None)

    def complete(self, metric: str) -> list[int]:
        """The places of the points at which every run ended well and has the metric."""
        names = {metric, self.metric or metric}
        return [place for place in range(len(self.points)) if all(whole(self.values(place, name)) for name in names)]


def whole(values: Values) -> bool:
    """Whether there is a value of every seed."""
    return bool(values) and all(value is not None and math.isfinite(value) for value in values)


def mean(values: Values) -> float | None:
    return fmean(value for value in values if value is not None) if whole(values) else None


def tuning_of(record: Record) -> Tuned | None:
    """The tuning of a run; None where it was not tuned, or where nothing of that can be read."""
    told: Node = record.tuning or {}
    settings = told.get("settings") or ({RATE: told["chosen"]} if told.get("chosen") else {})
    if not settings and not told.get("lacking"):
        return None
    return Tuned(
        settings=settings,
        points=tuple((point["settings"], _by_metric(point["values"])) for point in told.get("points") or ()),
        seeds=tuple(told.get("seeds") or ()),
        metric=told.get("metric"),
        sign=-1 if told.get("direction") == "max" else 1,
        max_steps=told.get("max_steps"),
        extended=told.get("extended") or {},
        lacking=tuple(told.get("lacking") or ()),
        means=tuple((rate, value) for rate, value in told.get("tried") or ()),
        told=repr(told),
    )


def _by_metric(values: Mapping[str, list[float | None]]) -> dict[str, Values]:
    return {name: tuple(each) for name, each in values.items()}


def tunings_behind(records: Iterable[Record]) -> frozenset[str]:
    """What is told of the tunings that the settings of runs come from: where it is the same, so is the tuning."""
    return frozenset(tuned.told for record in records if (tuned := tuning_of(record)) and tuned.settings)


def tunings_on(runs: Runs, task: str) -> dict[str, Tuned]:
    """Variant -> its tuning on a task, that of its first run; without those that were not tuned."""
    found = {variant: tuning_of(runs.records[places[0]]) for (of, variant), places in runs.places.items() if of == task}
    return {variant: tuned for variant, tuned in found.items() if tuned and tuned.points}
