"""Learning rates, to the number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LRScheduler

from ablab.training.schedules import GradientVariance, constant, cosine, warmup_factor, warmup_steps

BASE = 0.5


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=BASE)


def trace(build: Callable[..., LRScheduler], steps: int, **settings: Any) -> list[float]:
    """The learning rate that each step uses."""
    stepped = optimizer()
    schedule = build(stepped, **settings)
    rates = []
    for _ in range(steps):
        rates.append(stepped.param_groups[0]["lr"])
        stepped.step()
        schedule.step()
    return rates


def test_constant_rises_in_equal_parts_and_stays() -> None:
    rates = trace(constant, 12, total_steps=12, warmup_share=0.25)  # three steps of warm-up
    assert rates == pytest.approx([BASE * f for f in (0.25, 0.5, 0.75)] + 9 * [BASE], abs=1e-12)


def test_cosine_by_hand() -> None:
    half = math.sqrt(0.5)  # cos(pi / 4)
    falling = [1, 0.2 + 0.4 * (1 + half), 0.6, 0.2 + 0.4 * (1 - half), 0.2, 0.2, 0.2]
    rates = trace(cosine, 8, total_steps=5, warmup_share=0.2, min_factor=0.2)
    assert rates == pytest.approx([BASE * f for f in [0.5, *falling]], abs=1e-12)  # past the end it stays


def test_cosine_without_warm_up_starts_at_the_top_and_can_end_at_nothing() -> None:
    rates = trace(cosine, 5, total_steps=4, warmup_share=0.0, min_factor=0.0)
    assert rates[0] == BASE
    assert rates[2] == pytest.approx(BASE / 2)
    assert rates[4] == 0.0


@given(total=st.integers(1, 10_000), share=st.floats(0, 1, exclude_max=True), step=st.integers(0, 20_000))
def test_warm_up_is_never_zero_never_above_one_and_never_falls(total: int, share: float, step: int) -> None:
    warmup = warmup_steps(total, share)
    assert 0 <= warmup <= total
    assert 0 < warmup_factor(step, warmup) <= warmup_factor(step + 1, warmup) <= 1
    assert warmup_factor(warmup, warmup) == 1
    assert warmup == 0 or warmup_factor(warmup - 1, warmup) < 1


@pytest.mark.parametrize("build", [constant, cosine, GradientVariance])
def test_a_schedule_goes_on_from_its_state(build: Callable[..., LRScheduler]) -> None:
    def steps(schedule: LRScheduler, stepped: torch.optim.Optimizer, count: int, first: int) -> list[float]:
        rates = []
        for step in range(first, first + count):
            generator = torch.Generator().manual_seed(step)
            stepped.param_groups[0]["params"][0].grad = torch.randn(2, generator=generator) + 0.5
            rates.append(stepped.param_groups[0]["lr"])
            stepped.step()
            schedule.step()
        return rates

    whole_optimizer = optimizer()
    whole = build(whole_optimizer, total_steps=20, warmup_share=0.2)
    expected = steps(whole, whole_optimizer, 20, first=0)

    first_optimizer = optimizer()
    first = build(first_optimizer, total_steps=20, warmup_share=0.2)
    before = steps(first, first_optimizer, 9, first=0)
    saved = torch.tensor(0), first.state_dict(), first_optimizer.state_dict()
    second_optimizer = optimizer()
    second = build(second_optimizer, total_steps=20, warmup_share=0.2)
    second.load_state_dict(saved[1])
    second_optimizer.load_state_dict(saved[2])
    after = steps(second, second_optimizer, 11, first=9)
    assert before + after == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("build", [constant, cosine, GradientVariance])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"total_steps": 0}, "total_steps must be at least 1, got 0"),
        ({"total_steps": 5, "warmup_share": 1.0}, "warmup_share must be at least 0 and less than 1, got 1.0"),
        ({"total_steps": 5, "warmup_share": -0.1}, "warmup_share must be at least 0 and less than 1, got -0.1"),
    ],
)
def test_numbers_out_of_range(build: Callable[..., LRScheduler], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(optimizer(), **settings)


def test_cosine_cannot_end_above_its_top() -> None:
    with pytest.raises(ValueError, match=r"min_factor must lie between 0 and 1, got 1\.5"):
        cosine(optimizer(), total_steps=5, min_factor=1.5)
