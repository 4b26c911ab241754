"""Exponents, crossovers and ratios of made-up times, whose answers are known."""

from __future__ import annotations

import pytest
from bench_fakes import timed
from hypothesis import given
from hypothesis import strategies as st

from ablab.bench.attention.results import Cell, Results
from ablab.bench.attention.scaling import FIT_FROM, Ahead, Crossover, ahead, crossover, exponent
from ablab.bench.attention.tables import lines, render, tables, three_digits

LENGTHS = [2**power for power in range(8, 17)]


@given(power=st.floats(0.0, 3.0), factor=st.floats(1e-9, 1e3))
def test_a_power_law_has_its_own_exponent(power: float, factor: float) -> None:
    seconds = {n: factor * n**power for n in LENGTHS}
    assert exponent(seconds) == pytest.approx(power, abs=1e-9)


def test_the_fit_leaves_out_short_lengths() -> None:
    """There a constant cost hides how the rest grows."""
    seconds = {n: n * 1e-6 if n >= FIT_FROM else 1.0 for n in LENGTHS}
    assert exponent(seconds) == pytest.approx(1.0)
    assert exponent({FIT_FROM: 1.0}) is None
    assert exponent({n: 1.0 for n in LENGTHS if n < FIT_FROM}) is None


def test_the_fit_is_by_least_squares() -> None:
    """Three points a factor of two apart: the slope is that from the first to the last, whatever the middle one is."""
    assert exponent({4096: 1.0, 8192: 100.0, 16384: 8.0}) == pytest.approx(1.5)


@given(at=st.floats(257, 65_535))
def test_a_line_crosses_a_parabola_where_algebra_says(at: float) -> None:
    found = crossover({n: n * at for n in LENGTHS}, {n: float(n**2) for n in LENGTHS})
    assert found is not None
    assert found.kind == "at"
    assert found.length == pytest.approx(at)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({256: 0.5, 512: 0.5}, Crossover("below", 256)),
        ({256: 2.0, 512: 2.0}, Crossover("never", 512)),
        ({256: 2.0, 512: 1.0}, Crossover("never", 512)),  # as fast as is not faster
        ({256: 0.5, 512: 2.0, 1024: 0.5}, Crossover("at", 512 * 2**0.5)),  # the last crossing counts
        ({256: 0.5, 512: 0.5, 1024: 2.0}, Crossover("never", 1024)),
        ({}, None),
    ],
)
def test_crossings(ratios: dict[int, float], expected: Crossover | None) -> None:
    found = crossover({n: 3 * ratio for n, ratio in ratios.items()} | {64: 9.0}, dict.fromkeys(ratios, 3.0))
    if expected is None:
        assert found is None
    else:
        assert found == Crossover(expected.kind, pytest.approx(expected.length))


WINDOWED: list[Cell] = [
    *(timed("windowed", n, n * 1e-6, ours=True, family="windowed", peak_bytes=100) for n in (256, 512, 1024)),
    *(timed("both", n, n * 1e-6, ours=True, family="windowed", causal=False) for n in (256, 512)),
    *(timed("small", n, n * 4e-6, family="windowed", peak_bytes=50) for n in (256, 512)),
    *(timed("fast", n, seconds, family="windowed", peak_bytes=400) for n, seconds in ((256, 1e-2), (512, 1024e-6))),
    *(timed("other family", n, 1e-9, family="lsh", peak_bytes=1) for n in (256, 512)),
    *(timed("two-sided", n, n * 8e-6, family="windowed", causal=False) for n in (256, 512)),
    *(timed("sdpa", n, n**2 * 2e-9) for n in (256, 512, 1024)),
]


def test_the_best_peer_is_chosen_at_each_length_among_those_that_do_the_same() -> None:
    results = Results(WINDOWED)
    windowed, both = results.implementations[:2]
    assert ahead(windowed, "forward", results) == {
        256: Ahead(pytest.approx(4.0), "small"),
        512: Ahead(pytest.approx(2.0), "fast"),
    }
    assert ahead(windowed, "forward", results, "memory") == dict.fromkeys((256, 512), Ahead(0.5, "small"))
    assert ahead(both, "forward", results)[512] == Ahead(pytest.approx(8.0), "two-sided")
    assert ahead(windowed, "forward_backward", results) == {}


def test_what_is_shown_is_what_was_found() -> None:
    shown = Results([*WINDOWED, Cell(implementation="broken", ours=False, family="lsh", causal=True, pass_="forward",
                                     length=512, skipped="why it is")])  # fmt: skip
    text = render(tables(shown, matmul_peak=1e9))
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "ours: windowed 0.256 ±50% 0.512 ±50% 1.02 ±50%" in rows
    assert "broken – – –" in rows
    assert "ours: windowed – from 500 98% 1,024" in rows  # 1e6 in 1.024 ms, of 1e9 per second
    assert "windowed sdpa / ours, time 0.512 1.02 2.05" in rows
    assert "windowed best peer / ours, time 4.00 2.00 – fast" in rows
    assert lines(shown) == [
        "windowed, against sdpa: forward: does NOT pay below 500 tokens.",
        "skipped: broken, forward, at 512: why it is",
    ]


def test_where_an_option_always_or_never_pays() -> None:
    full = [timed("sdpa", n, 1.0, pass_=pass_) for n in (256, 512) for pass_ in ("forward", "forward_backward")]  # type: ignore[arg-type]
    one = [timed("windowed", n, 0.9, ours=True, family="windowed") for n in (256, 512)]
    other = [timed("windowed", n, 1.1, pass_="forward_backward", ours=True, family="windowed") for n in (256, 512)]
    assert lines(Results([*full, *one, *other])) == [
        "windowed, against sdpa: forward: pays at all lengths, 256 tokens included; "
        "forward and backward: does NOT pay up to 512 tokens."
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0123, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1,234")],
)
def test_three_digits(value: float, text: str) -> None:
    assert three_digits(value) == text
