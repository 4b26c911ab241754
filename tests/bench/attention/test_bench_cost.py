"""Memory against what a call is known to allocate, FLOPs against PyTorch's own count, and turns counted one by one."""

from __future__ import annotations

import gc
import math
from collections import Counter

import pytest
import torch
from bench_fakes import TINY
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ablab.bench.attention.limits import available_bytes, foresee, scores_bytes
from ablab.bench.attention.measure import needed_flops
from ablab.bench.attention.memory import peak_bytes
from ablab.bench.attention.timing import FEWEST, in_turn, once, repetitions

KIB = 256  # float32 numbers


def test_memory_is_what_is_held_at_once() -> None:
    def call() -> Tensor:
        first = torch.empty(100 * KIB)
        second = torch.empty(200 * KIB)
        del first
        third = torch.empty(400 * KIB)
        del second
        return third

    assert peak_bytes(call, "cpu") == 600 * 1024  # second and third; not the sum, not the largest


def test_a_peak_before_the_end() -> None:
    def call() -> Tensor:
        large = torch.empty(500 * KIB)
        del large
        return torch.empty(KIB)

    assert peak_bytes(call, "cpu") == 500 * 1024


def test_what_was_there_before_does_not_count() -> None:
    there = torch.ones(100 * KIB)
    assert peak_bytes(lambda: there.mul_(2), "cpu") == 0
    assert peak_bytes(lambda: there * 2, "cpu") == 100 * 1024


def test_memory_of_explicit_attention() -> None:
    """Scores and their softmax at once, and the result after that, which is smaller."""
    T, D = 64, 8
    q, k, v = (torch.randn(1, 1, T, D) for _ in range(3))

    def call() -> Tensor:
        with torch.no_grad():
            return (q @ k.mT).softmax(-1) @ v

    assert peak_bytes(call, "cpu") == 2 * T * T * 4


@pytest.mark.parametrize("backward", [False, True])
def test_flops_that_full_attention_needs(backward: bool) -> None:
    T = 16
    q, k, v, grad = TINY.draw(T, heads_first=True)
    for x in (q, k, v):
        x.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        out = (q @ k.mT).softmax(-1) @ v
        if backward:
            out.backward(grad)
    assert needed_flops(TINY, T, "forward_backward" if backward else "forward", T) == counter.get_total_flops()


def test_turns() -> None:
    turns: list[str] = []
    calls = {name: (lambda name=name: turns.append(name)) for name in "abc"}
    times = in_turn(calls, {"a": 6, "b": 3, "c": 2}, "cpu")
    assert "".join(turns) == "a" "ab" "ac" "ab" "a" "abc"  # noqa: ISC001 (a group for each round)
    assert all(0 <= each.min_s <= each.median_s <= each.max_s for each in times.values())
    assert in_turn({}, {}, "cpu") == {}


@given(counts=st.dictionaries(st.text(max_size=2), st.integers(1, 12), max_size=5))
def test_each_has_as_many_turns_as_it_should(counts: dict[str, int]) -> None:
    turns: Counter[str] = Counter()
    times = in_turn({name: (lambda name=name: turns.update([name])) for name in counts}, counts, "cpu")
    assert turns == Counter(counts)
    assert times.keys() == counts.keys()


def test_the_garbage_collector_rests_meanwhile_and_works_again_afterwards() -> None:
    states: list[bool] = []

    def fail() -> None:
        states.append(gc.isenabled())
        raise RuntimeError

    assert gc.isenabled()
    with pytest.raises(RuntimeError):
        in_turn({"fails": fail}, {"fails": 1}, "cpu")
    assert states == [False]
    assert gc.isenabled()


def test_one_call_is_one_call() -> None:
    calls: list[None] = []
    assert once(lambda: calls.append(None), "cpu") >= 0
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("seconds", "budget", "count"),
    [(0.1, 1.0, 10), (1e-6, 1.0, 30), (0.0, 1.0, 30), (10.0, 1.0, FEWEST), (1.0, math.inf, 30)],
)
def test_repetitions(seconds: float, budget: float, count: int) -> None:
    assert repetitions(seconds, 30, budget) == count
    assert repetitions(seconds, 2, budget) == 2


@given(power=st.floats(1.0, 2.0), factor=st.floats(1e-6, 1e3))
def test_a_power_law_goes_on(power: float, factor: float) -> None:
    measured = {n: factor * n**power for n in (256, 512, 1024, 4096)}
    assert foresee(measured, 2048) == pytest.approx(factor * 2048**power)  # by shorter lengths alone


def test_what_is_foreseen_lies_between_linear_and_quadratic() -> None:
    assert foresee({256: 1.0, 512: 64.0}, 1024) == 64 * 4
    assert foresee({256: 1.0, 512: 1.0}, 1024) == 2
    assert foresee({256: 1.0}, 1024) == 16
    assert foresee({}, 1024) is None
    assert foresee({1024: 1.0, 256: 0.0}, 1024) is None


def test_memory_of_all_scores() -> None:
    assert scores_bytes(TINY, 100) == 2 * (TINY.batch * TINY.heads * 100 * 100) * 4
    assert available_bytes("cpu") > 0
