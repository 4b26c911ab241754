"""Times to a target against closed forms: where a curve crosses, who never does, and the ratio of those who do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from curved import Curved
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic import runs_of, study

from ablab.analysis.baseline import Baselines
from ablab.analysis.curves import By
from ablab.analysis.time_to_target import UNITS, TimeToTarget, crossing, time_to_target
from ablab.errors import UserError
from ablab.results.interim import InterimAnalysis
from ablab.results.record import Direction, Metric

RELU = "activation=relu"


def found(made: Curved, target: float | None = None, by: By = "step") -> TimeToTarget:
    return time_to_target(made.runs, "language", "val_loss", Baselines(RELU), by, target, made.reader)


def line(slope: float) -> Callable[[float], float]:
    return lambda step: 10 - slope * step


def test_straight_lines_cross_where_algebra_says() -> None:
    """10 - slope * step reaches 5 at 5 / slope, evaluated there or not."""
    made = Curved()
    slopes = {1: 0.13, 2: 0.2, 3: 0.17, 4: 0.22}
    for seed, slope in slopes.items():
        made.add("relu", seed, line(slope))
        made.add("gelu", seed, line(2 * slope * (1 + seed / 100)))
    base, gelu = found(made, 5.0).items
    assert base.times == pytest.approx({seed: 5 / slope for seed, slope in slopes.items()})
    assert base.ratio is None
    logs = [-math.log(2 * (1 + seed / 100)) for seed in slopes]
    reference = stats.ttest_1samp(logs, 0).confidence_interval(0.975)  # by step and by seconds
    assert gelu.factor == pytest.approx(math.exp(np.mean(logs)))
    assert gelu.interval == pytest.approx((math.exp(reference.low), math.exp(reference.high)))
    assert (gelu.label, gelu.reached, len(gelu.times)) == ("gelu", 4, 4)


def test_looks_make_it_stricter() -> None:
    made = Curved()
    for seed, slope in enumerate((0.13, 0.2, 0.17, 0.22), start=1):
        made.add("relu", seed, line(slope))
        made.add("gelu", seed, line(2 * slope * (1 + seed / 100)))
    twice = replace(
        made.runs, interim_analyses=(InterimAnalysis((1, 2, 3), "then"), InterimAnalysis((1, 2, 3, 4), "now"))
    )
    _, gelu = time_to_target(twice, "language", "val_loss", Baselines(RELU), target=5.0, reader=made.reader).items
    assert gelu.ratio is not None
    assert gelu.interval == pytest.approx(tuple(map(math.exp, gelu.ratio.interval(1 - 0.025 / 2))))


@pytest.mark.parametrize(("by", "unit"), [("step", 1), ("tokens", 64), ("seconds", 0.5)])
def test_the_unit_is_steps_tokens_or_seconds(by: By, unit: float) -> None:
    made = Curved()
    made.add("relu", 1, line(0.2))
    (base,) = found(made, 5.0, by).items
    assert base.times == pytest.approx({1: 25 * unit})


def test_who_never_reaches_it_is_counted_and_never_imputed() -> None:
    made = Curved()
    for seed in range(1, 6):
        made.add("relu", seed, line(0.2))
        made.add("gelu", seed, line(0.2 if seed < 4 else 0.1))
    _, gelu = found(made, 5.0).items
    assert gelu.times == pytest.approx({1: 25, 2: 25, 3: 25, 4: None, 5: None})
    assert (gelu.ratio, gelu.factor, gelu.interval) == (None, None, None)
    assert (gelu.reached, len(gelu.times)) == (3, 5)


def test_a_target_behind_the_first_evaluation_has_no_time() -> None:
    made = Curved()
    for seed in (1, 2, 3):
        made.add("relu", seed, line(0.2))
        made.add("gelu", seed, [4.0 if seed == 1 else 6.0, 3.0, 2.0, 1.0])
    _, gelu = found(made, 5.0).items
    assert (gelu.times[1], gelu.early, gelu.reached, gelu.ratio) == (None, (1,), 3, None)
    assert (gelu.reached, len(gelu.times)) == (3, 3)


def test_every_run_of_both_reaches_the_default_target() -> None:
    """Of a better variant it is the baseline's worst final value, of a worse one its own."""
    made = Curved()
    for seed, slope in ((1, 0.1), (2, 0.2), (3, 0.15)):
        made.add("relu", seed, line(slope))
        made.add("better", seed, line(2 * slope))
        made.add("worse", seed, line(slope / 2))
    made.add("better", 4, [9.0, 9.5], steps=(10, 20), status="diverged")
    result = found(made)
    better, worse = result.items
    assert not result.declared
    assert (better.target, worse.target) == (6.0, 8.0)
    assert better.times == pytest.approx({1: 20, 2: None, 3: 4 / 0.3, 4: None})
    assert better.early == (2,)  # at its first evaluation
    assert worse.times == pytest.approx({1: 40, 2: 20, 3: 2 / 0.075})
    assert worse.ratio is None  # the baseline's second run is there at its first evaluation


def test_the_default_target_treats_the_two_alike() -> None:
    made = Curved()
    draw = np.random.default_rng(3)
    for seed in (1, 2, 3, 4):
        for option in ("relu", "gelu"):
            made.add(option, seed, line(0.1 + 0.02 * float(draw.random())), steps=range(5, 50, 5))
    (one,) = found(made).items
    (other,) = time_to_target(made.runs, "language", "val_loss", Baselines("activation=gelu"), reader=made.reader).items
    assert one.factor is not None
    assert other.factor == pytest.approx(1 / one.factor)
    assert one.target == other.target


def studies(count: int) -> list[TimeToTarget]:
    """Of five variants that do nothing, with three seeds: curves that flatten, noise of runs and of evaluations."""
    draw, steps = np.random.default_rng(5), range(100, 1001, 100)
    course = 2 + 3 * (np.array(steps) / 100) ** -0.5
    made = []
    for _ in range(count):
        study = Curved()
        for seed in (1, 2, 3):
            for option in ("relu", "a", "b", "c", "d", "e"):
                own = draw.normal(0, 0.01) + draw.normal(0, 0.004, len(steps))
                study.add(option, seed, list(course + 0.02 * seed + own), steps=steps)
        made.append(found(study))
    return made


@pytest.mark.slow
def test_variants_that_do_nothing_are_not_flattered() -> None:
    """By the baseline's worst final value half of them had no ratio, and the others read as faster by 1 to 2%."""
    items = [item for study in studies(100) for item in study.items]
    logs = [math.log(item.factor) for item in items if item.factor]
    assert len(logs) == 500
    assert abs(np.mean(logs)) < 3 * np.std(logs) / math.sqrt(len(logs)) * math.sqrt(2)  # they share a baseline
    outside = [not item.interval[0] <= 1 <= item.interval[1] for item in items if item.interval]
    assert np.mean(np.reshape(outside, (100, 5)).any(1)) <= 0.05


def test_the_intervals_hold_for_all_variants_tasks_and_units_at_once() -> None:
    made = Curved()
    for seed in range(1, 6):
        made.add("relu", seed, line(0.2 + 0.001 * seed))
        for place in range(3):
            made.add(f"v{place}", seed, line(0.25 + 0.002 * seed * place))
    for item in found(made, 5.0).items[1:]:
        assert item.ratio is not None
        assert item.interval == pytest.approx(tuple(map(math.exp, item.ratio.interval(1 - 0.05 / (3 * len(UNITS))))))


def test_higher_is_better_where_the_task_says_so() -> None:
    made = Curved()
    for seed in (1, 2, 3):
        made.add("relu", seed, partial(lambda s, step: s * step / 100, seed))
    runs = made.runs
    runs = replace(runs, primary={"language": Metric(name="val_loss", split="val", direction="max")})
    result = time_to_target(runs, "language", "val_loss", Baselines(RELU), target=0.4, reader=made.reader)
    assert result.items[0].times == pytest.approx({1: 40, 2: 20, 3: 40 / 3})
    for seed in (1, 2, 3):
        made.add("gelu", seed, partial(lambda s, step: s * step / 50, seed))
    runs = replace(made.runs, primary=runs.primary)
    (gelu,) = time_to_target(runs, "language", "val_loss", Baselines(RELU), reader=made.reader).items
    assert gelu.target == pytest.approx(0.4)  # the worst final value of all


def test_pairs_are_needed_for_a_ratio() -> None:
    made = Curved()
    for seed in (1, 2, 3):
        made.add("relu", seed, line(0.2))
    for seed in (2, 3, 4):
        made.add("gelu", seed, line(0.3))
    made.add("glu", 1, None)
    _, gelu = found(made, 5.0).items
    assert gelu.ratio is None  # two pairs
    assert gelu.reached == 3


def test_without_curves_there_is_no_default_target() -> None:
    runs = runs_of(study({"relu": [1.0] * 3, "gelu": [1.0] * 3}))
    with pytest.raises(UserError, match="no finished run of activation=relu has a curve of val_loss; give a target"):
        time_to_target(runs, "language", "val_loss", Baselines(RELU))
    assert time_to_target(runs, "language", "val_loss", Baselines(RELU), target=1.0).items == ()


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(-5, 5), st.sampled_from(["min", "max"]))
def test_the_crossing_is_the_first_root(values: list[float], target: float, direction: Direction) -> None:
    """Against a walk along the curve, point by point."""
    x = np.arange(1.0, len(values) + 1)
    sign = 1 if direction == "min" else -1
    expected = None
    for place, value in enumerate(values):
        if sign * value <= sign * target:
            expected = place
            break
    got = crossing((x, np.array(values)), target, direction)
    if expected is None or expected == 0:
        assert got == (None if expected is None else -math.inf)
    else:
        assert got is not None
        assert expected <= got <= expected + 1
        assert np.interp(got, x, values) == pytest.approx(target, abs=1e-9)
