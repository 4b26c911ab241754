"""The front against the definition, point by point, and the budgets that make points incomparable."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import cost, ended, runs_of, study

from ablab.analysis.pareto import front, fronts, unequal_budgets
from ablab.report.formatting import budget_text
from ablab.results.record import Direction, Record

# Few values, so that ties are common.
numbers = st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, math.nan, math.inf])


def dominated(points: list[tuple[float, float]], place: int, direction: Direction) -> bool:
    """By the definition: some other point is no worse in both and better in one."""
    sign = 1 if direction == "min" else -1
    price, quality = points[place][0], sign * points[place][1]
    return any(
        other <= price and sign * value <= quality and (other < price or sign * value < quality)
        for other, value in points
        if math.isfinite(other) and math.isfinite(value)
    )


@given(st.lists(st.tuples(numbers, numbers), max_size=9), st.sampled_from(["min", "max"]))
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, float]], direction: Direction) -> None:
    found = front([price for price, _ in points], [value for _, value in points], direction)
    expected = [
        all(map(math.isfinite, point)) and not dominated(points, place, direction) for place, point in enumerate(points)
    ]
    assert found == expected


def test_each_cost_has_its_front() -> None:
    rows = pd.DataFrame(
        {
            "variant": ["a", "b", "c"],
            "mean": [1.0, 0.9, 0.8],
            "flops_total": [10.0, 30.0, 20.0],
            "tokens_per_second": [5.0, 9.0, None],
            "peak_memory_bytes": [None, None, None],
        },
        index=[4, 2, 7],
    )
    found = fronts(rows, "min")
    assert list(found.columns) == ["variant", "flops_total", "tokens_per_second"]
    assert list(found.index) == [4, 2, 7]
    assert list(found["flops_total"]) == [True, False, True]
    assert list(found["tokens_per_second"]) == [False, True, False]  # faster and better than a; c was not timed


def spent(**changes: float | None) -> dict[str, dict[str, float]]:
    """What is marked where one variant's cost has these shares of the baseline's."""
    records: list[Record] = study({"relu": [1.0, 1.1], "gelu": [0.9, 1.0]})
    for item in records[2:]:
        shares = {
            name: None if share is None else round(getattr(item.cost, name) * share) for name, share in changes.items()
        }
        item.cost = cost(item, **shares)
    return unequal_budgets(runs_of(records), "language", "activation=relu")


@pytest.mark.parametrize(
    ("changes", "marked"),
    [
        ({}, {}),
        ({"flops_total": 1.02, "tokens": 0.98, "parameters": 1.05}, {}),
        ({"flops_total": 1.38}, {"activation=gelu": "+38% FLOPs"}),
        ({"flops_total": None, "flops_per_step": 1.38}, {"activation=gelu": "+38% FLOPs"}),
        ({"tokens": 0.5, "parameters": 1.1}, {"activation=gelu": "-50% tokens, +10% parameters"}),
    ],
)
def test_unequal_budgets_are_marked(changes: dict[str, float | None], marked: dict[str, str]) -> None:
    assert {variant: budget_text(differing) for variant, differing in spent(**changes).items()} == marked


def test_budgets_are_compared_seed_by_seed() -> None:
    records = study({"relu": [1.0, 1.1], "gelu": [0.9, math.nan]})
    records[1].cost = cost(records[1], flops_total=999_000_000)  # its partner diverged
    records += [ended("failed", "boom", 1, axes={"activation": "glu"})]
    assert unequal_budgets(runs_of(records), "language", "activation=relu") == {}
