"""Figures of the parts of an evaluation: in order, as a table, as heatmaps, beside what is reachable."""

import itertools
import math
import random
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import pytest
from synthetic import ended, record, runs_of

from ablab.report.formatting import metric_text
from ablab.report.html.blocks import LEVELS, Scale, heatmap, scale_of
from ablab.report.html.sections.subsets import REACHABLE, grid_of, in_order, keys_of, subsets_of
from ablab.results.record import Metric, Record

ACCURACY = Metric(name="val_accuracy", split="val", direction="max")
LENGTHS, DEPTHS = (64, 128, 1024), (0.0, 0.25, 0.5, 1.0)
GRID = [f"length={length},depth={depth}" for length, depth in itertools.product(LENGTHS, DEPTHS)]


def run(seed: int, option: str, metrics: dict[str, float], **changes: Any) -> Record:
    return record(seed, axes={"attention": option}, primary=ACCURACY, metrics=metrics, **changes)


def test_parts_are_ordered_by_their_numbers_however_they_come() -> None:
    shuffled = random.Random(1).sample(GRID, len(GRID))
    assert in_order(shuffled) == GRID  # 64 before 128 before 1024, which as text would be 1024, 128, 64
    assert in_order(["class=b", "class=10", "class=a"]) == ["class=b", "class=10", "class=a"]


def test_a_value_may_hold_what_separates_keys() -> None:
    assert keys_of("class=bread, butter") == {"class": "bread, butter"}
    assert keys_of("with=image+text") == {"with": "image+text"}
    assert keys_of("length=64,depth=0.5") == {"length": "64", "depth": "0.5"}


def test_only_a_full_grid_of_two_keys_is_one() -> None:
    grid = grid_of(GRID)
    assert grid is not None
    assert (grid.index.name, grid.columns.name) == ("length", "depth")
    assert [part for row in grid.to_numpy().tolist() for part in row] == GRID
    assert grid_of(GRID[:-1]) is None
    assert grid_of([f"length={length},depth=0" for length in LENGTHS]) is None  # one column
    assert grid_of(["class=a", "class=b"]) is None
    assert grid_of([f"{part},seed=1" for part in GRID]) is None


def test_a_table_has_means_over_the_finished_seeds_and_what_is_reachable() -> None:
    values = {"text": [0.2, 0.25, 0.4], "image+text": [0.7, 0.8, 0.75]}
    oracle = {"chance": 0.1, "ceiling": 1.0, "with=image+text": 0.9, "with=speech": 0.5}
    records = [
        run(seed + 1, "full", {f"val_accuracy/with={name}": values[name][seed] for name in values}, oracle=oracle)
        for seed in range(3)
    ]
    records.append(ended("failed", "boom", 4, axes={"attention": "full"}, primary=ACCURACY))
    (found,) = subsets_of(runs_of(records), "language")
    assert found.metric == "val_accuracy"
    assert found.table is not None
    shown = [metric_text(fmean(own), stdev(own)) for own in values.values()]
    assert found.table.to_numpy().tolist() == [
        ["default", *shown],
        [REACHABLE, "–", "0.9"],
        ["chance", "0.1", "0.1"],
    ]


def test_known_values_stand_beside_the_primary_metric_of_any_split_and_beside_no_other() -> None:
    metrics = {"test_f1/with=text": 0.5, "test_accuracy/with=text": 0.5, "val_accuracy/with=text": 0.5}
    found = subsets_of(runs_of([run(1, "full", metrics, oracle={"chance": 0.1, "with=text": 0.9})]), "language")
    assert [one.metric for one in found] == ["val_accuracy", "test_f1", "test_accuracy"]  # the primary one first
    assert [len(one.table) for one in found if one.table is not None] == [3, 1, 3]


def test_a_grid_is_a_heatmap_of_means_per_variant_on_one_scale() -> None:
    rng = random.Random(2)
    values = {(option, seed, part): rng.random() for option in "ab" for seed in (1, 2) for part in GRID}
    records = [
        run(seed, option, {f"val_accuracy/{part}": values[option, seed, part] for part in reversed(GRID)})
        for option in "ab"
        for seed in (1, 2)
    ]
    (found,) = subsets_of(runs_of(records), "language")
    assert found.table is None
    assert [grid.caption.split(",")[0] for grid in found.grids] == ["attention=a", "attention=b"]
    for option, grid in zip("ab", found.grids, strict=True):
        means = iter([(values[option, 1, part] + values[option, 2, part]) / 2 for part in GRID])
        assert grid.columns == [str(depth) for depth in DEPTHS]
        for (heading, cells), length in zip(grid.rows, LENGTHS, strict=True):
            assert heading == str(length)
            for (text, level), mean in zip(cells, means, strict=False):
                assert text == f"{mean:.2f}"
                assert level == round(mean * LEVELS)
            assert len(cells) == len(DEPTHS)
        spread = max(stdev([values[option, seed, part] for seed in (1, 2)]) for part in GRID)
        assert grid.caption.endswith(f"2 runs, sd of a cell up to {spread:.2g}")


def test_what_is_reachable_of_a_grid_is_a_heatmap_too() -> None:
    oracle = {"chance": 0.1, **dict.fromkeys(GRID, 0.75)}
    records = [run(1, "full", {f"val_accuracy/{part}": 0.5 for part in GRID}, oracle=oracle)]
    (found,) = subsets_of(runs_of(records), "language")
    assert [grid.caption for grid in found.grids] == ["default, 1 run", REACHABLE]
    assert {cell for _, cells in found.grids[1].rows for cell in cells} == {("0.75", 8)}
    assert "Chance is 0.1." in found.note


def test_missing_and_nan_parts_are_gaps() -> None:
    metrics = {f"val_accuracy/{part}": 0.5 for part in GRID}
    records = [
        run(1, "a", metrics),
        run(1, "b", {f"val_accuracy/{GRID[0]}": math.nan, f"val_accuracy/{GRID[1]}": 1.0}),
        run(1, "c", {}),
    ]
    (found,) = subsets_of(runs_of(records), "language")
    cells = {grid.caption[10]: [cell for _, row in grid.rows for cell in row] for grid in found.grids}
    assert cells["b"] == [("–", 0), ("1.00", LEVELS), *[("–", 0)] * (len(GRID) - 2)]
    assert cells["c"] == [("–", 0)] * len(GRID)


def test_runs_without_parts_have_none() -> None:
    assert subsets_of(runs_of([record(1), record(1, metrics={"val_loss": 1.0, "odd/name": 1.0})]), "language") == []


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.2, 0.9], Scale(0.0, 1.0)),
        ([0.0, 1.0], Scale(0.0, 1.0)),
        ([0.5, 3.0], Scale(0.5, 3.0)),
        ([-1.0, 0.5], Scale(-1.0, 0.5)),
        ([math.nan, math.inf], Scale(0.0, 1.0)),
    ],
)
def test_the_scale_is_that_of_fractions_or_reaches_over_all(values: list[float], scale: Scale) -> None:
    assert scale_of([pd.DataFrame([[value]]) for value in values]) == scale
    assert scale_of([]) == Scale(0.0, 1.0)


def test_a_flat_scale_has_no_shades() -> None:
    flat = heatmap("x", pd.DataFrame([[3.0, 3.0]]), Scale(3.0, 3.0))
    assert flat.rows == [("0", [("3", 0), ("3", 0)])]
