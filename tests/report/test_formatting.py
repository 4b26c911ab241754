"""Numbers as people read them."""

import math
from collections.abc import Callable

import pytest

from ablab.report.formatting import (
    MISSING,
    confidence,
    count,
    decimals_for,
    duration,
    memory,
    metric_text,
    number,
    p_value,
    percent,
    plural,
    share,
    without_zero,
)


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0004, "< .001"),
        (0.0012, "= .001"),
        (0.049, "= .049"),
        (0.0497, "< .050"),
        (0.05, "= .050"),
        (0.11, "= .11"),
        (0.0996, "= .10"),
        (1.0, "> .99"),
    ],
)
def test_p_values(p: float, text: str) -> None:
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.9, ".90"), (-0.123, "-.12"), (1.0, "1.00"), (0.999, "1.00"), (-0.001, ".00"), (-1, "-1.00")]
)
def test_shares(value: float, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.38, "+38%"), (-0.024, "-2.4%"), (2.5, "+250%"), (0.0003, "+0.03%"), (0.1, "+10%"), (0.0, "+0%")],
)
def test_percentages(value: float, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("analyses", "shown", "level"),
    [(1, "95%", ".05"), (2, "97.5%", ".025"), (3, "98.33%", ".0167"), (4, "98.75%", ".0125"), (5, "99%", ".01")],
)
def test_levels_and_the_confidence_of_intervals(analyses: int, shown: str, level: str) -> None:
    assert confidence(0.05 / analyses) == shown
    assert without_zero(0.05 / analyses) == level
    assert confidence(2 * 0.05) == "90%"
    assert confidence(2.1e-6) == "99.9998%"


def test_two_digits_of_the_scale_are_shown() -> None:
    assert [decimals_for(scale) for scale in (0.00495, 0.0305, 0.01, 30, 0.0)] == [4, 3, 3, 0, 4]


def test_signed_numbers() -> None:
    assert number(-0.0254, 3) == "-0.025"
    assert number(0.0052, 3, signed=True) == "+0.005"
    assert number(-0.00001, 3, signed=True) == "0.000"
    assert number(1.5e-9, 10) == "+1.5e-09".removeprefix("+")
    assert number(0.5, 18) == "0.500000"  # a difference that is the same on every seed but for rounding
    assert number(1.234e20, 0, signed=True) == "+1.2e+20"
    assert number(float("nan"), 3) == "?"


def test_plurals() -> None:
    assert plural(1, "seed") == "1 seed"
    assert plural(1200, "seed") == "1,200 seeds"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (999.9, "1 k"), (12_345, "12.3 k"), (1.38e8, "138 M"), (0.25, "0.25")]
)
def test_counts(value: float, text: str) -> None:
    assert count(value) == text


def test_memory() -> None:
    assert [memory(value) for value in (100, 2048, 50_000_000, 3 * 1024**3)] == ["100 B", "2 KiB", "47.7 MiB", "3 GiB"]


def test_durations() -> None:
    assert [duration(value) for value in (9.5, 59.99, 125, 12_000)] == ["9.5 s", "1 min 0 s", "2 min 5 s", "3 h 20 min"]


def test_metrics_show_two_digits_of_their_spread() -> None:
    assert metric_text(0.91234, 0.0312) == "0.912 ± 0.031"
    assert metric_text(0.91234) == "0.9123"
    assert metric_text(12345.6) == "1.235e+04"


@pytest.mark.parametrize("text", [count, memory, duration, metric_text])
def test_what_was_not_measured_is_a_dash(text: Callable[[float | None], str]) -> None:
    assert text(None) == text(math.nan) == MISSING
