"""Exponents, crossovers and ratios, on times whose answers are known."""

from __future__ import annotations

import math

import pytest
from bench_fakes import cells, results
from hypothesis import given
from hypothesis import strategies as st

from ablab.bench.attention.cost import foresee
from ablab.bench.attention.scaling import Ahead, Crossover, ahead, baseline_of, crossover, exponent

LENGTHS = [2**power for power in range(8, 17)]


@given(power=st.floats(0.5, 2.5), factor=st.floats(1e-9, 1e3))
def test_a_power_law_is_found(power: float, factor: float) -> None:
    assert exponent({n: factor * n**power for n in LENGTHS}) == pytest.approx(power)


def test_only_long_sequences_count() -> None:
    short = {n: 1.0 for n in LENGTHS if n < 4096}
    assert exponent(short | {n: 1e-6 * n for n in LENGTHS if n >= 4096}) == pytest.approx(1)
    assert exponent(short) is None
    assert exponent(short | {4096: 1.0}) is None


@given(meets=st.floats(300, 60_000), power=st.floats(0.5, 1.9))
def test_two_powers_of_the_length_meet_where_they_meet(meets: float, power: float) -> None:
    full = {n: (n / meets) ** 2 for n in LENGTHS}
    found = crossover({n: (n / meets) ** power for n in LENGTHS}, full)
    assert found is not None
    assert found.kind == "at"
    assert found.length == pytest.approx(meets)


def test_never_and_always_and_nothing_to_compare() -> None:
    full = {256: 1.0, 512: 4.0}
    assert crossover({256: 2.0, 512: 5.0}, full) == Crossover("never", 512)
    assert crossover({256: 0.5, 512: 3.0}, full) == Crossover("below", 256)
    assert crossover({1024: 3.0}, full) is None
    assert crossover({256: 1.0, 512: 4.0}, full) == Crossover("never", 512)


def test_being_faster_once_is_not_enough() -> None:
    full = {256: 1.0, 512: 1.0, 1024: 1.0, 2048: 1.0}
    found = crossover({256: 0.5, 512: 2.0, 1024: 0.5, 2048: 0.1}, full)
    assert found is not None
    assert found.length == pytest.approx(512 * math.sqrt(2))


def test_the_best_peer_is_the_fastest_at_each_length_of_the_same_kind() -> None:
    found = results(
        cells("ours", {256: 1.0, 512: 2.0, 1024: 4.0}, ours=True, family="windowed", bytes={256: 10}),
        cells("one", {256: 3.0, 512: 4.0}, family="windowed", bytes={256: 50}),
        cells("other", {256: 2.0, 512: 9.0}, family="windowed", bytes={256: 80}),
        cells("both sides", {256: 0.1}, family="windowed", causal=False),
        cells("hashed", {256: 0.1}, family="lsh"),
        cells("ours too", {256: 0.1}, ours=True, family="windowed"),
        cells("one", {256: 0.1}, pass_="forward_backward", family="windowed"),
    )
    ours = found.implementations[0]
    assert ahead(ours, "forward", found) == {256: Ahead(2.0, "other"), 512: Ahead(2.0, "one")}
    assert ahead(ours, "forward", found, "memory")[256] == Ahead(5.0, "one")
    assert baseline_of(ours) == "sdpa"
    assert [baseline_of(each) for each in found.implementations if not each.causal] == ["sdpa-both-sides"]


def test_what_comes_is_foreseen_along_the_last_slope_between_linear_and_quadratic() -> None:
    assert foresee({}, 512) is None
    assert foresee({1024: 1.0}, 512) is None
    assert foresee({256: 1.0}, 1024) == pytest.approx(16)
    assert foresee({256: 1.0, 512: 2.0}, 1024) == pytest.approx(4)
    assert foresee({128: 9.0, 256: 1.0, 512: 3.0}, 2048) == pytest.approx(27)
    assert foresee({256: 1.0, 512: 9.0}, 1024) == pytest.approx(36)
    assert foresee({256: 1.0, 512: 1.0}, 1024) == pytest.approx(2)
