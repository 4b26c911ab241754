"""Ladders from records and comparisons: each variant's effects at each size, with what they cost.

A size is a *rung*: of a ladder, or a value of what a study compares within. Rungs are ordered by the FLOPs of the
baseline's runs. Effects are those of the comparisons at each rung, seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, pairwise
from statistics import fmean

from ablab.analysis.choice_noise import joint
from ablab.analysis.estimates import FloatArray
from ablab.analysis.over_scale.points import Point, limit_of, points_of
from ablab.analysis.pairing import outcomes
from ablab.analysis.tuned import tunings_behind
from ablab.analysis.verdicts import Comparison
from ablab.results.collect import Runs
from ablab.results.evaluation import Direction
from ablab.results.record import Record

FEWEST_CONDITIONS = 3  # values of what is compared within, for a ladder that no one has called so
_GROWTH = 1.2  # of compute, at least, from one of them to the next


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One size, with the baseline's runs there."""

    name: str  # "d_model=64,n_layers=3"
    place: str  # the name of it as a task
    parameters: float
    tokens: float
    flops: float


@dataclass(frozen=True, kw_only=True)
class Climb:
    """One variant against the baseline at the rungs where both have values, the smallest first."""

    variant: str
    label: str
    rungs: tuple[Rung, ...]
    items: tuple[Comparison, ...]  # one for each rung
    cost: tuple[float, ...]  # FLOPs of the variant's runs over those they are paired with, at each; NaN: not known
    tunings: tuple[frozenset[str], ...]  # behind the runs of both, at each
    missing: tuple[str, ...] = ()  # rungs without a pair
    unstable: tuple[str, int, int] | None = None  # the rung, how many diverged, of how many: as often as the baseline

    @property
    def compute(self) -> list[float]:
        return [rung.flops for rung in self.rungs]

    @property
    def differences(self) -> list[tuple[float, ...]]:
        return [item.differences for item in self.items]

    @property
    def choice(self) -> FloatArray:
        """The covariance of what choosing settings by tuning adds to the effects."""
        return joint([item.choice for item in self.items], self.tunings)

    @property
    def tuned_at_once(self) -> bool:
        """Whether one tuning serves all rungs, as that of a ladder's smallest size does."""
        return len(set(self.tunings)) == 1

    def only(self, wanted: Sequence[bool]) -> Climb:
        """At some of its rungs."""
        return replace(
            self,
            rungs=tuple(compress(self.rungs, wanted)),
            items=tuple(compress(self.items, wanted)),
            cost=tuple(compress(self.cost, wanted)),
            tunings=tuple(compress(self.tunings, wanted)),
        )


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """One task at several sizes."""

    task: str
    metric: str
    direction: Direction
    baseline: str
    rungs: tuple[Rung, ...]  # ascending
    climbs: tuple[Climb, ...]
    limit: float | None  # that no value of the metric can pass, as far as it is known
    points: tuple[Point, ...]

    @cached_property
    def values(self) -> dict[tuple[str, str], dict[int, float]]:
        """(variant, rung) -> seed -> the value of the whole run, where it has one."""
        found: dict[tuple[str, str], dict[int, float]] = {}
        for point in self.points:
            if not point.on_the_way and math.isfinite(point.value):
                found.setdefault((point.variant, point.rung), {})[point.seed] = point.value
        return found


def ladders_of(
    runs: Runs, baseline: str, items: Sequence[Comparison], metrics: dict[str, str], last_k: int = 1
) -> list[Ladder]:
    """Every ladder among the runs, in the order of the plan."""
    found: dict[str, list[Rung]] = {}
    for task in runs.tasks:
        records = _records(runs, task, baseline)
        if records and (size := _size_of(task, records)):
            whole, name = size
            ended_well = [record for record in records if record.status == "ok"]  # others stopped at some step
            found.setdefault(whole, []).append(_rung(name, task, ended_well))
    ladders = []
    for whole, rungs in found.items():
        known_cost = [rung for rung in rungs if math.isfinite(rung.flops)]  # none where no run ended well
        ordered = sorted(known_cost, key=lambda rung: rung.flops)
        if _climbs(runs, baseline, ordered):
            ladders.append(_ladder(runs, whole, baseline, ordered, items, metrics, last_k))
    return ladders


def _records(runs: Runs, task: str, variant: str) -> list[Record]:
    return [runs.records[place] for place in runs.places.get((task, variant), ())]


def _size_of(task: str, records: Sequence[Record]) -> tuple[str, str] | None:
    """(the task without its size, the size) as the label of a task has them; None where it has no size."""
    record = records[0]
    if record.rung and task.endswith(f",{record.rung}"):
        return task.removesuffix(f",{record.rung}"), record.rung
    parts = task.split(",")
    sizes = [part for part in parts[1:] if part.partition("=")[0] in record.conditions]
    if record.rung or not sizes:
        return None
    return ",".join(part for part in parts if part not in sizes), ",".join(sizes)


def _climbs(runs: Runs, baseline: str, rungs: Sequence[Rung]) -> bool:
    """Whether these sizes are a ladder: one that is called so, or conditions that differ in compute."""
    if len(rungs) < 2:
        return False
    if _records(runs, rungs[0].place, baseline)[0].rung:
        return True
    compute = [rung.flops for rung in rungs]
    grows = all(larger > _GROWTH * smaller for smaller, larger in pairwise(compute))
    return len(rungs) >= FEWEST_CONDITIONS and grows


def _rung(name: str, place: str, records: Sequence[Record]) -> Rung:
    costs = [record.cost for record in records]
    return Rung(
        name=name,
        place=place,
        parameters=_mean(cost.parameters for cost in costs),
        tokens=_mean(cost.tokens or None for cost in costs),
        flops=_mean(cost.flops_total or None for cost in costs),
    )


def _mean(values: Iterable[float | None]) -> float:
    there = [value for value in values if value is not None]
    return fmean(there) if there else math.nan


def _ladder(
    runs: Runs,
    task: str,
    baseline: str,
    rungs: Sequence[Rung],
    items: Sequence[Comparison],
    metrics: dict[str, str],
    last_k: int,
) -> Ladder:
    metric = metrics[rungs[-1].place]
    at = {(item.task, item.variant): item for item in items}
    names = list(dict.fromkeys(variant for rung in rungs for task_, variant in runs.places if task_ == rung.place))
    climbs = [_climb(runs, variant, rungs, at) for variant in names if variant != baseline]
    direction = next((item.direction for item in items if item.task == rungs[-1].place), None)
    direction = direction or (runs.primary[rungs[-1].place].direction if rungs[-1].place in runs.primary else "min")
    points = [
        point
        for rung in rungs
        for variant in names
        for point in points_of(runs, task, rung.name, rung.place, variant, metric, last_k)
    ]
    values = [point.value for point in points if math.isfinite(point.value)]
    return Ladder(
        task=task,
        metric=metric,
        direction=direction,
        baseline=baseline,
        rungs=tuple(rungs),
        climbs=tuple(climb for climb in climbs if climb is not None),
        limit=limit_of(_records(runs, rungs[-1].place, baseline), metric, direction, values),
        points=tuple(points),
    )


def _climb(runs: Runs, variant: str, rungs: Sequence[Rung], at: dict[tuple[str, str], Comparison]) -> Climb | None:
    there = [(rung, at[rung.place, variant]) for rung in rungs if (rung.place, variant) in at]
    if not there:
        return None
    paired = [(rung, item) for rung, item in there if item.differences and not item.blocked]
    sides = [_records(runs, rung.place, variant) + _records(runs, rung.place, item.baseline) for rung, item in paired]
    reached = {rung.name for rung, _ in paired}
    unstable = ((rung.name, item.diverged, item.ended) for rung, item in there if item.less_stable)
    return Climb(
        variant=variant,
        label=there[-1][1].label,
        rungs=tuple(rung for rung, _ in paired),
        items=tuple(item for _, item in paired),
        cost=tuple(_cost(runs, rung, item) for rung, item in paired),
        tunings=tuple(map(tunings_behind, sides)),
        missing=tuple(rung.name for rung in rungs if rung.name not in reached),
        unstable=next(unstable, None),
    )


def _cost(runs: Runs, rung: Rung, item: Comparison) -> float:
    """The variant's FLOPs over the baseline's, of the complete pairs."""
    sides = (outcomes(runs, rung.place, variant, item.metric) for variant in (item.variant, item.baseline))
    own, base = (_mean(side[seed].record.cost.flops_total or None for seed in item.seeds) for side in sides)
    return own / base
