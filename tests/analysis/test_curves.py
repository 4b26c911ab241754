"""Curves side by side: grids, bands and paired differences against closed forms and scipy."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from curved import STEPS, Curved
from scipy import stats
from synthetic import odd_runs, runs_of, study, write_runs

from ablab.analysis.baseline import Baselines, choose_baselines
from ablab.analysis.curves import Band, By, aligned, difference
from ablab.analysis.pairing import tasks
from ablab.results.collect import collect

RELU, GELU = "activation=relu", "activation=gelu"


def bands(made: Curved, by: By = "step") -> dict[str, Band]:
    return aligned(made.runs, "language", "val_loss", by, made.reader).bands


def test_the_band_is_scipys_t_interval_at_each_point() -> None:
    values = np.random.default_rng(0).normal(size=(5, 4))
    made = Curved()
    for seed, row in enumerate(values):
        made.add("relu", seed, list(row))
    band = bands(made)[RELU]
    assert list(band.x) == list(STEPS)
    assert band.seeds == (0, 1, 2, 3, 4)
    assert band.low is not None
    assert band.high is not None
    for point in range(4):
        reference = stats.ttest_1samp(values[:, point], 0).confidence_interval(0.95)
        assert band.mean[point] == pytest.approx(values[:, point].mean())
        assert (band.low[point], band.high[point]) == pytest.approx((reference.low, reference.high))


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_have_no_band(seeds: int) -> None:
    made = Curved()
    for seed in range(seeds):
        made.add("relu", seed, [4, 3, 2, 1])
    band = bands(made)[RELU]
    assert list(band.mean) == [4, 3, 2, 1]
    assert band.low is band.high is None


def test_steps_are_those_that_all_finished_runs_have() -> None:
    made = Curved()
    made.add("relu", 1, [4, 3, 2, 1])
    made.add("relu", 2, [6, 5, 4], steps=(10, 30, 50))
    made.add("relu", 3, [9, 8], steps=(10, 20), status="diverged")
    found = aligned(made.runs, "language", "val_loss", "step", made.reader)
    assert list(found.bands[RELU].x) == [10, 30]
    assert list(found.bands[RELU].mean) == [5, 3.5]
    ((variant, seed, (x, y)),) = found.diverged
    assert (variant, seed, list(x), list(y)) == (RELU, 3, [10, 20], [9, 8])


def test_no_common_step_is_no_band() -> None:
    made = Curved()
    made.add("relu", 1, [4, 3], steps=(10, 20))
    made.add("relu", 2, [4, 3], steps=(15, 25))
    assert bands(made) == {}
    assert difference(made.runs, "language", "val_loss", Baselines(RELU), "step", made.reader) == {}


def test_tokens_are_steps_times_tokens_per_step() -> None:
    made = Curved()
    for seed in (1, 2, 3):
        made.add("relu", seed, [4, 3, 2, 1], tokens_per_step=100)
    found = aligned(made.runs, "language", "val_loss", "tokens", made.reader)
    assert list(found.bands[RELU].x) == [1000, 2000, 3000, 4000]
    assert (found.by, found.approximate) == ("tokens", False)


def test_seconds_are_interpolated_inside_the_common_range() -> None:
    """A straight line in time stays the line, whatever the speed of each run."""
    made = Curved()
    for seed, step_time in ((1, 0.5), (2, 0.4), (3, 0.8)):
        made.add("relu", seed, partial(lambda t, step: 100 - 2 * step * t, step_time), step_time_s=step_time)
    found = aligned(made.runs, "language", "val_loss", "seconds", made.reader)
    band = found.bands[RELU]
    assert (band.x[0], band.x[-1], len(band.x)) == (8.0, 16.0, 4)
    assert band.mean == pytest.approx(100 - 2 * band.x)
    assert band.high == pytest.approx(band.mean)
    assert found.approximate
    assert (found.by, found.approximate) == ("seconds", True)


def test_a_run_of_unknown_speed_has_no_curve_over_seconds() -> None:
    made = Curved()
    made.add("relu", 1, [4, 3, 2, 1])
    made.add("relu", 2, [8, 6, 4, 2], step_time_s=None)
    assert bands(made, "seconds")[RELU].seeds == (1,)
    assert bands(made)[RELU].seeds == (1, 2)


def test_differences_are_paired_by_seed() -> None:
    made = Curved()
    shift = {1: 0.0, 2: 5.0, 3: -2.0, 4: 1.0}
    noise = np.random.default_rng(1).normal(size=(5, 4))
    for seed, moved in shift.items():
        made.add("relu", seed, partial(lambda m, step: 10 + m + 100 / step, moved))
    for seed, moved in reversed(shift.items()):
        made.add("gelu", seed, [9 + moved + 100 / step + e for step, e in zip(STEPS, noise[seed], strict=True)])
    made.add("gelu", 9, [0, 0, 0, 0])  # without a partner
    found = difference(made.runs, "language", "val_loss", Baselines(RELU), "step", made.reader)
    assert list(found) == [GELU]
    band = found[GELU]
    assert band.seeds == (1, 2, 3, 4)
    assert band.mean == pytest.approx(noise[1:].mean(0) - 1)
    assert band.low is not None
    half = stats.t.ppf(0.975, 3) * noise[1:].std(0, ddof=1) / 2
    assert band.low == pytest.approx(band.mean - half)


def test_differences_over_seconds_are_taken_at_equal_time() -> None:
    """Twice as fast per step, the same per step: at equal time the line that falls by 2 a second falls by 4."""
    made = Curved()
    for seed in (1, 2, 3):
        made.add("relu", seed, lambda step: 100 - step, step_time_s=0.5)
        made.add("gelu", seed, lambda step: 100 - step, step_time_s=0.25)
    band = difference(made.runs, "language", "val_loss", Baselines(RELU), "seconds", made.reader)[GELU]
    assert (band.x[0], band.x[-1]) == (5.0, 10.0)
    assert band.mean == pytest.approx(-2 * band.x)


def test_files_are_read_where_no_reader_is_given(tmp_path: Path) -> None:
    runs = collect([write_runs(tmp_path, study({"relu": [1.0, 1.1, 1.2, math.nan], "gelu": [1.0] * 4}), steps=3)])
    found = aligned(runs, "language", "val_loss")
    assert found.bands[RELU].mean == pytest.approx(1.1 + 1 / np.arange(1, 4) - 1 / 3)
    assert [(variant, seed) for variant, seed, _ in found.diverged] == [(RELU, 4)]
    assert difference(runs, "language", "val_loss", Baselines(RELU))[GELU].mean == pytest.approx([-0.1] * 3)


@pytest.mark.parametrize("by", ["step", "tokens", "seconds"])
@pytest.mark.parametrize("name", odd_runs())
def test_odd_runs(tmp_path: Path, name: str, by: By) -> None:
    runs = collect([write_runs(tmp_path, odd_runs()[name])])
    for task in tasks(runs):
        aligned(runs, task, "val_loss", by)
        difference(runs, task, "val_loss", choose_baselines(runs), by)


def test_runs_without_files_have_no_curves() -> None:
    assert aligned(runs_of(study({"relu": [1.0] * 3})), "language", "val_loss").bands == {}
