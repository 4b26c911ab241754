"""Memory and FLOPs against closed forms and PyTorch's own count; turns; what is foreseen."""

from __future__ import annotations

import gc
import math
from collections import Counter
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ablab.bench.attention.cost import available_bytes, foresee, in_turn, peak_bytes, repetitions, scores_bytes
from ablab.bench.attention.implementation import Setting
from ablab.bench.attention.measure import needed_flops

SETTING = Setting(heads=2, head_size=8)


def test_memory_of_attention_written_out() -> None:
    """Scores and their softmax at once; the result, which comes after the scores are gone, is smaller."""
    T, D = 64, 8
    q, k, v = (torch.randn(1, 1, T, D) for _ in range(3))

    def call() -> Tensor:
        with torch.no_grad():
            return (q @ k.mT).softmax(-1) @ v

    assert peak_bytes(call, "cpu") == 2 * T * T * 4


@pytest.mark.parametrize("backward", [False, True])
def test_full_attention_needs_what_pytorch_counts(backward: bool) -> None:
    T = 16
    q, k, v, grad = SETTING.draw(T, heads_first=True)
    for x in (q, k, v):
        x.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        out = (q @ k.mT).softmax(-1) @ v
        if backward:
            out.backward(grad)
    assert needed_flops(SETTING, T, "forward_backward" if backward else "forward", T) == counter.get_total_flops()


@given(counts=st.dictionaries(st.text(max_size=2), st.integers(1, 12), max_size=5))
def test_each_has_as_many_turns_as_it_should(counts: dict[str, int]) -> None:
    turns: list[str] = []
    in_turn({name: partial(turns.append, name) for name in counts}, counts, "cpu", {})
    assert Counter(turns) == Counter(counts)


def test_the_garbage_collector_rests_meanwhile_and_works_again_after_an_interrupt() -> None:
    states: list[bool] = []

    def call() -> None:
        states.append(gc.isenabled())
        raise KeyboardInterrupt

    assert gc.isenabled()
    with pytest.raises(KeyboardInterrupt):
        in_turn({"call": call}, {"call": 9}, "cpu", {})
    assert states == [False]
    assert gc.isenabled()


def test_no_limit_on_the_budget() -> None:
    assert repetitions(1.0, 30, math.inf) == 30


@given(power=st.floats(1.0, 2.0), factor=st.floats(1e-6, 1e3))
def test_a_power_law_goes_on(power: float, factor: float) -> None:
    measured = {n: factor * n**power for n in (256, 512, 1024)}
    longer = {4096: 1e9}  # which must not count
    assert foresee(measured | longer, 2048) == pytest.approx(factor * 2048**power)


def test_memory_of_all_scores() -> None:
    """As many as attention written out holds at once."""
    assert scores_bytes(SETTING, 64) == SETTING.heads * 2 * 64 * 64 * 4
    assert available_bytes("cpu") > 0
