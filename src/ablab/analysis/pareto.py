"""Pareto fronts of quality and cost: variants that no other one matches at less cost, and those with another budget.

A variant is on the front of a cost if no other one is at least as good and at least as cheap, and better in one of the
two. The front is of means: whether two variants on it differ at all is for the verdicts to say.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pandas as pd

from ablab.analysis.conditions import (
    EQUAL_BUDGET,
    EQUAL_FLOPS,
    EQUAL_SIZE,
    Pairs,
    flops_difference,
    relative_difference,
)
from ablab.analysis.pairing import Pairing, outcomes, variants
from ablab.results.collect import Runs
from ablab.results.record import Direction

# Costs that have a front, and whether more of it is better.
COSTS = {
    "parameters": False,
    "flops_total": False,
    "train_time_s": False,
    "wall_time_s": False,
    "tokens_per_second": True,
    "peak_memory_bytes": False,
    "cache_bytes_8k": False,
    "decode_flops_8k": False,
}
_ENDED_WELL = "steps"  # a cost that every run has which ended well


def front(cost: Sequence[float], quality: Sequence[float], direction: Direction) -> list[bool]:
    """Whether each point is on the front: no other one has as little cost and as good a quality, and less or better.

    Args:
        cost: less is better.
        quality: of the same points, "min": less is better. Points without two finite numbers are never on the front.

    Returns:
        In the order given. Points with equal cost and quality are on it together.
    """
    sign = 1 if direction == "min" else -1
    points = sorted(
        (price, sign * value, place)
        for place, (price, value) in enumerate(zip(cost, quality, strict=True))
        if math.isfinite(price) and math.isfinite(value)
    )
    found = [False] * len(cost)
    best = math.inf  # of all that cost less
    for _, group in itertools.groupby(points, key=lambda point: point[0]):
        equal = list(group)
        least = equal[0][1]
        if least < best:
            best = least
            for _, value, place in equal:
                found[place] = value == least
    return found


def fronts(rows: pd.DataFrame, direction: Direction) -> pd.DataFrame:
    """Which variants are on the front of each cost.

    Args:
        rows: one row per variant of one task, with `variant`, `mean` (of the metric) and any of `COSTS` as columns.
        direction: "min" where less of the metric is better.

    Returns:
        With the index of `rows`: `variant`, and for each of `COSTS` that some row has a finite value of, a column of
        that name, True on its front.
    """
    found = pd.DataFrame({"variant": rows["variant"]}, index=rows.index)
    quality = _numbers(rows["mean"])
    for name, more_is_better in COSTS.items():
        if name not in rows:
            continue
        cost = [-value if more_is_better else value for value in _numbers(rows[name])]
        if any(map(math.isfinite, cost)):
            found[name] = front(cost, quality, direction)
    return found


def unequal_budgets(runs: Runs, task: str, baseline_variant: str) -> dict[str, dict[str, float]]:
    """The variants that were given another budget than the baseline, with what differs: {"FLOPs": .38, "tokens": -.03}.

    The tolerances are those of `conditions`. Means are over the seeds on which both runs ended well.
    """
    base = outcomes(runs, task, baseline_variant, _ENDED_WELL)
    found = {}
    for variant in variants(runs):
        own = outcomes(runs, task, variant, _ENDED_WELL)
        pairs = Pairing(variant, baseline_variant, task, _ENDED_WELL, own, base).pairs
        if variant != baseline_variant and (differing := _differences(pairs)):
            found[variant] = differing
    return found


def _differences(pairs: Pairs) -> dict[str, float]:
    flops = flops_difference(pairs)
    tokens = relative_difference(pairs, lambda record: record.cost.tokens)
    parameters = relative_difference(pairs, lambda record: record.cost.parameters)
    budgets = (("FLOPs", flops, EQUAL_FLOPS), ("tokens", tokens, EQUAL_BUDGET), ("parameters", parameters, EQUAL_SIZE))
    return {name: value for name, value, equal in budgets if value is not None and abs(value) > equal}


def _numbers(column: pd.Series) -> list[float]:
    return [float(value) for value in pd.to_numeric(column, errors="coerce")]
