import math

import pytest

from ablab.report.units import MISSING, count, duration, figure, memory


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (999.9, "1 k"), (12_345, "12.3 k"), (1.38e8, "138 M"), (0.25, "0.25")]
)
def test_counts(value: float, text: str):
    assert count(value) == text


def test_memory():
    assert [memory(value) for value in (100, 2048, 50_000_000, 3 * 1024**3)] == ["100 B", "2 KiB", "47.7 MiB", "3 GiB"]


def test_durations():
    assert [duration(value) for value in (9.5, 59.99, 125, 12_000)] == ["9.5 s", "1 min 0 s", "2 min 5 s", "3 h 20 min"]


def test_figures_show_two_digits_of_their_spread():
    assert figure(0.91234, 0.0312) == "0.912 ± 0.031"
    assert figure(0.91234) == "0.9123"
    assert figure(12345.6) == "1.235e+04"


@pytest.mark.parametrize("text", [count, memory, duration, figure])
def test_what_was_not_measured_is_a_dash(text):
    assert text(None) == text(math.nan) == MISSING
