"""The runs of a ladder as points over compute, and what no value of their metric can pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ablab.analysis.oracle import CEILING, known
from ablab.analysis.pairing import outcomes
from ablab.results.collect import Runs
from ablab.results.evaluation import Direction
from ablab.results.record import Record

FLOOR = "floor"  # as an oracle may name what no loss is below


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a ladder, or a shorter one that it made on its way."""

    task: str
    rung: str
    variant: str
    seed: int
    parameters: float  # NaN, as the others, where it is not known
    tokens: float
    flops: float
    value: float
    on_the_way: bool = False


def points_of(runs: Runs, task: str, rung: str, place: str, variant: str, metric: str, last_k: int) -> list[Point]:
    """One for each seed of a variant at a size, after those that its run made on its way.

    Args:
        task: without its size.
        rung: the size.
        place: both, as the runs name their task.
    """
    found = []
    for seed, outcome in outcomes(runs, place, variant, metric, last_k).items():
        record = outcome.record
        shorter = record.annealed if record.status == "ok" else ()
        ends = [(each.tokens, each.flops, each.metrics.get(metric, math.nan), True) for each in shorter]
        end = (record.cost.tokens, record.cost.flops_total, outcome.value, False)
        for tokens, flops, value, on_the_way in [*ends, end]:
            found.append(
                Point(
                    task=task,
                    rung=rung,
                    variant=variant,
                    seed=seed,
                    parameters=float(record.cost.parameters or math.nan),
                    tokens=float(tokens or math.nan),
                    flops=float(flops or math.nan),
                    value=value,
                    on_the_way=on_the_way,
                )
            )
    return found


def limit_of(records: Sequence[Record], metric: str, direction: Direction, values: Sequence[float]) -> float | None:
    """What an oracle knows of the best value, or 1 for what is a share of one and better for being larger."""
    told = known(records, metric)
    named = next((told[name] for name in (CEILING, FLOOR) if name in told), None)
    if named is not None or direction == "min":
        return named
    return 1.0 if values and min(values) >= 0 and max(values) <= 1 else None
