"""What is chosen among the points that a variant was tried at, and how that is said and kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from ablab.config import Node
from ablab.config.tune import RATE, Scalar, said
from ablab.config.value_types import is_number
from ablab.results.record import Record
from ablab.results.run_context import TuningReport, edge_of
from ablab.study.designs.factors import written
from ablab.study.trials.points import Point, Side

_FEW = 3  # points that are named

Results = Sequence[tuple[Point, Sequence[Record | None]]]  # each point with its records, by seed


def best_of(results: Results) -> Point | None:
    """The point with the best mean, of equal ones the first; None where nothing ended well."""
    scores = [score(records) for _, records in results]
    least = min(scores, default=math.inf)
    return None if math.isinf(least) else results[scores.index(least)][0]


def score(records: Sequence[Record | None]) -> float:
    """How bad a point is: the mean of the primary metric over the seeds, its sign such that less is better.

    Infinite where a run did not end well.
    """
    mean = _mean(records)
    if mean is None:
        return math.inf
    return -mean if any(r and r.primary and r.primary.direction == "max" for r in records) else mean


def report_of(best: Point, results: Results, grids: Mapping[str, Sequence[Scalar]]) -> TuningReport:
    """What was chosen and tried, without how the grids came about."""
    primary = next(r.primary for point, records in results if point == best for r in records if r and r.primary)
    rate = best.get(RATE)
    alone = [*best] == [RATE]
    return TuningReport(
        chosen=rate if isinstance(rate, float) else None,
        tried=[[_number(point[RATE]), _mean(records)] for point, records in results] if alone else [],
        edge=end_of(rate, grids[RATE]) if isinstance(rate, float) else None,
        settings=dict(best),
        points=[{"settings": dict(point), "values": _values(records)} | _failed(records) for point, records in results],
        metric=primary.name,
        direction=primary.direction,
    )


def shown(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else written(value)


def _mean(records: Sequence[Record | None]) -> float | None:
    values = []
    for record in records:
        if record is None or record.status != "ok" or record.primary is None:
            return None
        values.append(record.metrics.get(record.primary.name, math.nan))
    mean = fmean(values)
    return mean if math.isfinite(mean) else None


def _values(records: Sequence[Record | None]) -> dict[str, list[float | None]]:
    """Metric -> its value on each seed, None where a run did not end well."""
    ended = [record.metrics if record and record.status == "ok" else {} for record in records]
    names = sorted({name for metrics in ended for name in metrics})
    found = {name: [metrics.get(name, math.nan) for metrics in ended] for name in names}
    return {name: [value if math.isfinite(value) else None for value in values] for name, values in found.items()}


def _failed(records: Sequence[Record | None]) -> Node:
    """`failed`: why runs at a point failed, by seed; empty where none did, or where one diverged as well."""
    found = {str(record.seed): record.reason for record in records if record and record.status == "failed"}
    diverged = any(record and record.status == "diverged" for record in records)
    return {"failed": found} if found and not diverged else {}


def end_of(value: Scalar, values: Sequence[Scalar]) -> Side | None:
    """The end of a grid of numbers at which a value lies; nothing lies beyond 0."""
    numbers = [each for each in values if is_number(each)]
    if len(numbers) < len(values) or value == 0 or not isinstance(value, float | int):
        return None
    return edge_of(value, numbers)


def _number(value: Scalar) -> float | None:
    return value if isinstance(value, float) else None


def told(best: Point, results: Results) -> str:
    if [*best] == [RATE]:
        return f"{RATE}={shown(best[RATE])} of {', '.join(shown(point[RATE]) for point, _ in results)}"
    return f"{', '.join(f'{key}={shown(value)}' for key, value in best.items())} of {len(results)} points"


def unjudged(results: Results) -> str:
    """The points that nothing is known of, since runs there failed: they count as the worst."""
    found = [
        f"{len(failed)} of {len(records)} runs at {_short(point)} failed"
        for point, records in results
        if (failed := _failed(records).get("failed"))
    ]
    more = f", and at {len(found) - _FEW} more points" if len(found) > _FEW else ""
    return f"; NOT JUDGED: {', '.join(found[:_FEW])}{more}; retry=failed tries them again" if found else ""


def _short(point: Point) -> str:
    if [*point] == [RATE]:
        return shown(point[RATE])
    return " ".join(f"{key}={shown(value)}" for key, value in point.items())


def hints(report: TuningReport, grids: Mapping[str, Sequence[Scalar]]) -> str:
    ends = {key: end for key, value in report.settings.items() if (end := end_of(value, grids[key]))}
    named = {key: "it is" if len(report.settings) == 1 else f"{shown(report.settings[key])} is" for key in ends}
    return "".join(f"; {named[key]} the {end} of the grid: widen {said(key)}" for key, end in ends.items())


def without(lacking: Sequence[str]) -> str:
    return f"; it has no {' or '.join(lacking)}" if lacking else ""
