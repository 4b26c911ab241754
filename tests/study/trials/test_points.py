"""Points of grids: the whole grid or an even spread of it, what a variant has of it, and how a grid goes on."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.config.tune import Scalar
from ablab.errors import UserError
from ablab.study.trials.points import MOST_POINTS, Side, beyond, check_size, points_of, projected

GRIDS: dict[str, list[Scalar]] = {
    "optimizer.lr": [1e-3, 3e-3, 1e-2],
    "optimizer.weight_decay": [0.0, 0.1],
    "attention.window": [8, 16],
}
sizes = st.lists(st.integers(2, 6), min_size=1, max_size=4)


def test_the_whole_grid_in_ascending_order() -> None:
    points = points_of({"a": [1, 2], "b": [0.1, 0.2]}, None)
    assert points == [{"a": 1, "b": 0.1}, {"a": 1, "b": 0.2}, {"a": 2, "b": 0.1}, {"a": 2, "b": 0.2}]


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(2, 40))
def test_a_number_of_points_is_kept_and_each_is_another(lengths: list[int], trials: int) -> None:
    grids = {f"k{place}": list(range(size)) for place, size in enumerate(lengths)}
    points = points_of(grids, trials)
    assert len(points) == min(trials, math.prod(lengths))
    assert len({tuple(point.items()) for point in points}) == len(points)
    assert points == points_of(grids, trials)


def test_few_points_of_a_large_grid_meet_every_value() -> None:
    grids = {"a": list(range(6)), "b": list(range(6)), "c": list(range(6))}
    points = points_of(grids, 12)
    assert all({point[key] for point in points} == set(range(6)) for key in grids)


def test_a_variant_without_a_key_is_tried_at_the_rest_once() -> None:
    points = points_of(GRIDS, None)
    assert len(points) == 12
    own = projected(points, ["optimizer.lr", "optimizer.weight_decay"])
    assert own == points_of({key: GRIDS[key] for key in list(GRIDS)[:2]}, None)


def test_a_large_grid_asks_how_much_of_it_is_tried() -> None:
    grids = {"a": list(range(6)), "b": list(range(6))}
    assert math.prod(map(len, grids.values())) > MOST_POINTS
    with pytest.raises(UserError, match=r"has 36 points for each variant; say how many by tune\.trials"):
        check_size(grids, None)
    check_size(grids, 20)


@pytest.mark.parametrize(
    ("given", "side", "following"),
    [
        ([1e-3, 1e-2], "largest", 0.1),
        ([1e-3, 1e-2], "smallest", 1e-4),
        ([3e-4, 1e-3, 3e-3], "largest", 9.49e-3),
        ([1e-3, 2e-3, 4e-3], "smallest", 5e-4),
        ([0.0, 0.1], "largest", None),
        ([16, 32], "largest", None),
        (["a", "b"], "largest", None),
        ([True, False], "smallest", None),
    ],
)
def test_a_grid_goes_on_by_its_own_ratio(given: list[float], side: Side, following: float | None) -> None:
    assert beyond(given, given, side) == (following and pytest.approx(following))


def test_the_ratio_is_that_of_the_grid_that_was_given() -> None:
    assert beyond([1e-3, 1e-2], [1e-3, 1e-2, 0.1], "largest") == pytest.approx(1.0)
