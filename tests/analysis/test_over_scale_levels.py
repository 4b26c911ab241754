"""Forecasts over scale cover what they say, and verdicts are false as seldom: small versions of experiments/ladder."""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ablab.analysis.over_scale.forecast import TENFOLD, forecast
from ablab.analysis.over_scale.seen import Seen, smoothed
from ablab.analysis.over_scale.verdicts import Claims, ScaleVerdict, judge

SCRIPT = Path(__file__).parents[2] / "experiments" / "ladder" / "simulate.py"


@cache
def simulate() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("place", [2, 3])
def test_an_interval_covers_the_size_that_was_held_out(place: int) -> None:
    shares = simulate()["coverage"](simulate()["KINDS"][place], 300)
    assert 0.87 <= shares <= 0.97  # .92 to .94 of 2,000, and .016 is the error of 300


@pytest.mark.parametrize("truth", ["none", "0 at ten times, on a line"])
def test_false_verdicts_are_few(truth: str) -> None:
    alone, of_eight = simulate()["verdicts"](truth, 1.0, 8, 25)
    assert alone[ScaleVerdict.HOLDS] + alone[ScaleVerdict.REVERSES] <= 0.05
    assert of_eight <= 0.16  # .05, and .044 is the error of 25


def test_what_turns_round_at_the_largest_size_does_not_hold() -> None:
    """There it has no sign, so that HOLDS is false and REVERSES is true, whose p is far smaller."""
    alone, _ = simulate()["verdicts"]("turns round now, on a line", 0.1, 8, 25)
    assert alone[ScaleVerdict.REVERSES] >= 0.5
    assert alone[ScaleVerdict.HOLDS] <= 0.006  # one of 200; any of 8 is false in .05 of studies at most


def test_what_is_said_is_what_its_own_p_shows() -> None:
    """The p of one claim of a comparison is not that of the other."""
    for holds, reverses, verdict, p in (
        (0.04, 0.0001, ScaleVerdict.REVERSES, 0.0008),
        (0.004, 0.0001, ScaleVerdict.HOLDS, 0.032),
        (0.04, 0.6, ScaleVerdict.UNKNOWN, 0.32),
    ):
        for said, of_sign, _ in judge([Claims(holds, reverses, 1.0)] * 8):
            assert said == verdict
            assert of_sign == pytest.approx(p)


def test_planted_effects_are_found() -> None:
    alone, _ = simulate()["verdicts"]("constant", 0.4, 1, 40)
    assert alone[ScaleVerdict.HOLDS] >= 0.75
    alone, _ = simulate()["verdicts"]("a quarter at ten times, by a power", 0.1, 1, 20)
    assert alone[ScaleVerdict.FADES] >= 0.5
    alone, _ = simulate()["verdicts"]("turns round on the way, on a line", 0.05, 1, 20)
    assert alone[ScaleVerdict.REVERSES] >= 0.5


def test_the_variance_follows_the_size() -> None:
    random = np.random.default_rng(0)
    x = np.linspace(-5, 0, 6)
    found = np.mean(
        [
            smoothed(Seen.of(x, np.exp(-0.2 * x)[:, None] * random.normal(size=(6, 40))), np.array([-5.0, 0.0]))
            for _ in range(20)
        ],
        0,
    )
    assert found == pytest.approx([np.exp(2.0), 1.0], rel=0.15)


def test_more_seeds_and_less_distance_narrow_the_interval() -> None:
    random = np.random.default_rng(1)
    x, noise = np.linspace(-5, 0, 5), random.normal(size=(5, 8))

    def width(seeds: int, at: float) -> float:
        low, high = forecast(Seen.of(x, 1 + 0.3 * noise[:, :seeds]), at).interval()
        return high - low

    assert width(8, TENFOLD) < width(4, TENFOLD)
    assert width(8, 1.0) < width(8, TENFOLD)


def test_units_and_the_sign_of_a_metric_change_nothing() -> None:
    random = np.random.default_rng(2)
    x, seen = np.linspace(-5, 0, 5), 1 + 0.5 * random.normal(size=(5, 4))
    usual = forecast(Seen.of(x, seen), TENFOLD)
    for factor in (1e6, 1e-6, -1.0):
        other = forecast(Seen.of(x + 7, factor * seen), TENFOLD + 7)
        assert other.effects == pytest.approx(factor * usual.effects)
        assert other.sign_p(0, 0, 1) == pytest.approx(usual.sign_p(0, 0, 1))
        assert judge([Claims.of(other)])[0][0] == judge([Claims.of(usual)])[0][0]


def test_what_tuning_leaves_open_is_left_open_by_any_number_of_sizes() -> None:
    """Of one error of the choice at all sizes the sign is known no better than at one; of errors of their own it is."""
    x, differences = np.linspace(-5, 0, 5), np.array([-0.0081, -0.008, -0.0079, -0.008])
    seen = np.tile(differences, (5, 1))
    plain = forecast(Seen.of(x, seen), TENFOLD)
    shared = forecast(Seen.of(x, seen, np.full((5, 5), 0.01**2)), TENFOLD)
    apart = forecast(Seen.of(x, seen, np.diag(np.full(5, 0.01**2))), TENFOLD)
    by_choice = 2 * float(stats.t.cdf(-0.8, shared.degrees))
    assert judge([Claims.of(plain)])[0][0] is ScaleVerdict.HOLDS
    assert judge([Claims.of(shared)])[0][0] is ScaleVerdict.UNKNOWN
    assert shared.sign_p(0, 1, 0) == pytest.approx(by_choice, rel=0.02)
    assert shared.sign_p(0, 0, 1) >= by_choice - 1e-9
    assert plain.sign_p(0, 1, 0) < apart.sign_p(0, 1, 0) < shared.sign_p(0, 1, 0)
    assert shared.effects == pytest.approx(plain.effects, rel=0.01)
    assert shared.line[2] == pytest.approx(plain.line[2], abs=1e-6)  # how straight they are it says nothing of


@pytest.mark.parametrize(
    ("effects", "choice"), [([0.001] * 3, 0.1), ([0.002, 0.001, 0.001, 0.001], 0.05), ([-0.1, 0.0, 0.0, 0.0], 0.0)]
)
def test_ties_beside_a_large_error_of_the_choice_or_at_all_but_one_size_have_a_forecast(
    effects: list[float], choice: float
) -> None:
    count = len(effects)
    found = forecast(
        Seen.of(np.linspace(-4, 0, count), [[each] * 4 for each in effects], choice**2 * np.ones((count, count))),
        TENFOLD,
    )
    assert np.isfinite(found.interval()).all()
    assert judge([Claims.of(found)])[0][0] is ScaleVerdict.UNKNOWN


@pytest.mark.parametrize("choice", [0.0, 0.3])
def test_intervals_hold_what_is_measured_where_each_size_is_tuned_by_itself(choice: float) -> None:
    random, x, inside = np.random.default_rng(3), np.linspace(-5, 0, 5), 0
    for _ in range(200):
        errors = choice * random.normal(size=6)
        seen = 1 + errors[:5, None] + 0.05 * random.normal(size=(5, 4))
        low, high = forecast(Seen.of(x, seen, np.diag(np.full(5, choice**2)), choice**2), 1.0).interval()
        inside += low <= 1 + errors[5] + 0.05 * random.normal() / 2 <= high
    assert inside >= 0.87 * 200
