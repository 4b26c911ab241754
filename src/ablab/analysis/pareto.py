"""Pareto fronts of quality and cost: variants that no other one matches at less cost, and those with another budget.

Whether a variant is on the front of a cost is a statement on its quality beside that of every cheaper one, and is made
where it is resolved (`ablab.analysis.ranking`): a variant is *on* it if it is resolved better than each one that costs
as little or less, *off* it if one of those is resolved better than it, and *perhaps* on it otherwise. The cheapest is
on it whatever its quality. By means alone, of five variants that are the baseline's equals in truth and cost more, some
would be on the front in .83 of studies; by this rule in `LEVEL` at most, of the fronts of all costs and tasks together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from enum import StrEnum

import pandas as pd

from ablab.analysis.baseline import Baselines
from ablab.analysis.costs import (
    EQUAL_BUDGET,
    EQUAL_FLOPS,
    EQUAL_SIZE,
    EQUAL_SPEED,
    Pairs,
    flops_difference,
    relative_difference,
)
from ablab.analysis.pairing import Pairing, outcomes, variants
from ablab.analysis.ranking import Pair
from ablab.results.collect import Runs

# Costs that have a front, and up to which relative difference two of them count as equal.
COSTS = {
    "parameters": EQUAL_FLOPS,
    "flops_total": EQUAL_FLOPS,
    "train_time_s": EQUAL_SPEED,
    "wall_time_s": EQUAL_SPEED,
    "tokens_per_second": EQUAL_SPEED,
    "peak_memory_bytes": EQUAL_FLOPS,
    "cache_bytes_8k": EQUAL_FLOPS,
    "decode_flops_8k": EQUAL_FLOPS,
}
MORE_IS_BETTER = frozenset({"tokens_per_second"})
_ENDED_WELL = "steps"  # a cost that every run has which ended well


class Membership(StrEnum):
    """What can be said of a variant and a front."""

    ON = "on"
    PERHAPS = "perhaps"
    OFF = "off"


def front(cost: Mapping[str, float], better: Collection[Pair], equal: float = 0.0) -> dict[str, Membership]:
    """Whether each variant is on the front.

    Args:
        cost: of each variant that is ranked; less is better. What is not finite is left out.
        better: the pairs (better, worse) whose order in quality is resolved.
        equal: the relative difference up to which two costs count as equal.
    """
    known = {variant: price for variant, price in cost.items() if math.isfinite(price)}
    resolved = frozenset(better)
    return {variant: _membership(variant, _rivals(variant, known, equal), resolved) for variant in known}


def _rivals(variant: str, cost: Mapping[str, float], equal: float) -> list[str]:
    """Those that cost no more."""
    limit = cost[variant] + equal * abs(cost[variant])
    return [other for other, price in cost.items() if other != variant and price <= limit]


def _membership(variant: str, rivals: Collection[str], better: frozenset[Pair]) -> Membership:
    if any((rival, variant) in better for rival in rivals):
        return Membership.OFF
    return Membership.ON if all((variant, rival) in better for rival in rivals) else Membership.PERHAPS


def fronts(rows: pd.DataFrame, better: Collection[Pair]) -> pd.DataFrame:
    """What can be said of each variant and the front of each cost.

    Args:
        rows: one row per variant of one task, with `variant`, `mean` (of the metric, NaN where it is not ranked) and
            any of `COSTS` as columns.
        better: as `front` takes it.

    Returns:
        With the index of `rows`: `variant`, and for each of `COSTS` that some row has a finite value of, a column of
        that name: "on", "perhaps" or "off", "" where the variant is not ranked or has no such cost.
    """
    found = pd.DataFrame({"variant": rows["variant"]}, index=rows.index)
    ranked = [math.isfinite(value) for value in _numbers(rows["mean"])]
    for name, equal in COSTS.items():
        if name not in rows:
            continue
        cost = {
            variant: price
            for variant, price, counts in zip(rows["variant"], prices(name, rows[name]), ranked, strict=True)
            if counts
        }
        if members := front(cost, better, equal):
            found[name] = [members[variant].value if variant in members else "" for variant in rows["variant"]]
    return found


def prices(cost: str, values: pd.Series) -> list[float]:
    """The values of a cost so that less is better: of a speed the time that it stands for."""
    numbers = _numbers(values)
    if cost not in MORE_IS_BETTER:
        return numbers
    return [1 / value if value > 0 else math.nan for value in numbers]


def unequal_budgets(runs: Runs, task: str, baselines: Baselines) -> dict[str, dict[str, float]]:
    """The variants that had another budget than their baseline, with what differs: {"FLOPs": .38, "tokens": -.03}.

    The tolerances are those of `costs`. Means are over the seeds on which both runs ended well.
    """
    ended = {variant: outcomes(runs, task, variant, _ENDED_WELL) for variant in variants(runs)}
    found = {}
    for variant, own in ended.items():
        before = baselines.of(variant)
        pairs = Pairing(variant, before, task, _ENDED_WELL, own, ended.get(before, {})).pairs
        if variant != baselines.first and (differing := _differences(pairs)):
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
