"""The front against the definition, variant by variant, and the budgets that make points incomparable."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import cost, ended, runs_of, study

from ablab.analysis.baseline import Baselines
from ablab.analysis.pareto import Membership, front, fronts, unequal_budgets
from ablab.report.formatting import budget_text
from ablab.results.record import Record

# Few values, so that ties are common.
prices = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf])
qualities = st.sampled_from([1.0, 2.0, 3.0])


@given(st.lists(st.tuples(prices, qualities), max_size=8))
def test_where_every_order_is_resolved_the_front_is_what_nothing_matches(points: list[tuple[float, float]]) -> None:
    """Equal qualities are not resolved: among those that cost as little, neither is on the front or off it."""
    names = [f"v{place}" for place in range(len(points))]
    quality = dict(zip(names, (value for _, value in points), strict=True))
    price = dict(zip(names, (price for price, _ in points), strict=True))
    better = [(one, other) for one in names for other in names if quality[one] < quality[other]]
    found = front(price, better)
    assert list(found) == [name for name in names if math.isfinite(price[name])]
    for name, member in found.items():
        rivals = [quality[other] for other in found if other != name and price[other] <= price[name]]
        if all(quality[name] < rival for rival in rivals):
            assert member is Membership.ON
        else:
            assert member is (Membership.OFF if min(rivals) < quality[name] else Membership.PERHAPS)


def test_without_a_resolved_order_only_the_cheapest_is_on_the_front() -> None:
    assert list(front({"a": 1.0, "b": 2.0, "c": 3.0}, []).values()) == ["on", "perhaps", "perhaps"]
    assert list(front({"a": 1.0, "b": 1.01, "c": 3.0}, [], equal=0.02).values()) == ["perhaps", "perhaps", "perhaps"]


def test_a_step_of_the_front_is_resolved_against_every_cheaper_one() -> None:
    better = [("b", "a"), ("c", "a"), ("d", "a"), ("c", "b")]
    assert front({"a": 1, "b": 2, "c": 3, "d": 4}, better) == {"a": "on", "b": "on", "c": "on", "d": "perhaps"}
    assert front({"a": 4, "b": 3, "c": 2, "d": 1}, better) == {"a": "off", "b": "off", "c": "perhaps", "d": "on"}


def test_each_cost_has_its_front() -> None:
    rows = pd.DataFrame(
        {
            "variant": ["a", "b", "c", "unstable"],
            "mean": [1.0, 0.9, 0.8, math.nan],
            "flops_total": [10.0, 30.0, 20.0, 1.0],
            "tokens_per_second": [5.0, 9.0, None, 99.0],
            "peak_memory_bytes": [None, None, None, None],
        },
        index=[4, 2, 7, 8],
    )
    found = fronts(rows, [("b", "a"), ("c", "a"), ("c", "b")])
    assert list(found.columns) == ["variant", "flops_total", "tokens_per_second"]
    assert list(found.index) == [4, 2, 7, 8]
    assert list(found["flops_total"]) == ["on", "off", "on", ""]
    assert list(found["tokens_per_second"]) == ["off", "on", "", ""]  # faster and better than a; c was not timed


def spent(**changes: float | None) -> dict[str, dict[str, float]]:
    """What is marked where one variant's cost has these shares of the baseline's."""
    records: list[Record] = study({"relu": [1.0, 1.1], "gelu": [0.9, 1.0]})
    for item in records[2:]:
        shares = {
            name: None if share is None else round(getattr(item.cost, name) * share) for name, share in changes.items()
        }
        item.cost = cost(item, **shares)
    return unequal_budgets(runs_of(records), "language", Baselines("activation=relu"))


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
    assert unequal_budgets(runs_of(records), "language", Baselines("activation=relu")) == {}
