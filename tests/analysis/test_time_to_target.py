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

from ablab.analysis.curves import By
from ablab.analysis.time_to_target import TimeToTarget, crossing, time_to_target
from ablab.errors import UserError
from ablab.results.interim import InterimAnalysis
from ablab.results.record import Direction, Metric

RELU = "activation=relu"


def found(made: Curved, target: float | None = None, by: By = "step") -> TimeToTarget:
    return time_to_target(made.runs, "language", "val_loss", RELU, by, target, made.reader)


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
    reference = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
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
    _, gelu = time_to_target(twice, "language", "val_loss", RELU, target=5.0, reader=made.reader).items
    assert gelu.ratio is not None
    assert gelu.interval == pytest.approx(tuple(map(math.exp, gelu.ratio.interval(0.975))))
    assert gelu.level == 0.025


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


def test_every_seed_of_the_baseline_reaches_the_default_target() -> None:
    made = Curved()
    for seed, slope in ((1, 0.1), (2, 0.2), (3, 0.15)):
        made.add("relu", seed, line(slope))
    made.add("relu", 4, [9.0, 9.5], steps=(10, 20), status="diverged")
    result = found(made)
    assert (result.target, result.declared) == (6.0, False)
    assert result.items[0].times == pytest.approx({1: 40, 2: 20, 3: 4 / 0.15, 4: None})


def test_higher_is_better_where_the_task_says_so() -> None:
    made = Curved()
    for seed in (1, 2, 3):
        made.add("relu", seed, partial(lambda s, step: s * step / 100, seed))
    runs = made.runs
    runs = replace(runs, primary={"language": Metric(name="val_loss", split="val", direction="max")})
    result = time_to_target(runs, "language", "val_loss", RELU, reader=made.reader)
    assert result.target == pytest.approx(0.4)  # the worst final value
    assert result.items[0].times == pytest.approx({1: 40, 2: 20, 3: 40 / 3})


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
        time_to_target(runs, "language", "val_loss", RELU)
    assert time_to_target(runs, "language", "val_loss", RELU, target=1.0).items == ()


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
