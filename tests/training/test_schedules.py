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

from ablab.training.schedules.decay import (
    constant,
    cosine,
    cyclic_restarts,
    inverse_sqrt,
    linear,
    one_cycle,
    warmup_stable_decay,
)
from ablab.training.schedules.gradient_variance import GradientVariance
from ablab.training.schedules.plateau import Plateau
from ablab.training.schedules.warmup import warmup_factor, warmup_steps

BASE = 0.5
WITH_WARMUP = [
    *(constant, linear, cosine, inverse_sqrt, warmup_stable_decay, cyclic_restarts),
    *(Plateau, GradientVariance),
]


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


@pytest.mark.parametrize("build", WITH_WARMUP)
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


@pytest.mark.parametrize("build", WITH_WARMUP)
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


def test_linear_by_hand() -> None:
    rates = trace(linear, 8, total_steps=5, warmup_share=0.2, min_factor=0.2)
    assert rates == pytest.approx([BASE * f for f in (0.5, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2)], abs=1e-12)


def test_inverse_sqrt_by_hand() -> None:
    rates = trace(inverse_sqrt, 16, total_steps=10, warmup_share=0.3)
    assert rates[:4] == pytest.approx([BASE * f for f in (0.25, 0.5, 0.75, 1)], abs=1e-12)
    assert rates[8] == pytest.approx(BASE * 2 / 3)  # sqrt(4 / 9)
    assert rates[15] == pytest.approx(BASE / 2)  # sqrt(4 / 16)


def test_warmup_stable_decay_by_hand() -> None:
    settings = {"total_steps": 10, "warmup_share": 0.1, "decay_share": 0.4, "min_factor": 0.2}
    rates = trace(warmup_stable_decay, 12, shape="linear", **settings)
    assert rates == pytest.approx([BASE * f for f in (0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2)], abs=1e-12)
    falling = [1 - 0.8 * math.sqrt(x) for x in (0.25, 0.5, 0.75, 1, 1)]
    rates = trace(warmup_stable_decay, 12, shape="sqrt", **settings)
    assert rates == pytest.approx([BASE * f for f in (0.5, 1, 1, 1, 1, 1, 1, *falling)], abs=1e-12)


def test_cyclic_restarts_by_hand() -> None:
    half = math.sqrt(0.5)  # cos(pi / 4)
    first = [1, 0.2 + 0.4 * (1 + half), 0.6, 0.2 + 0.4 * (1 - half)]
    settings = {"total_steps": 17, "warmup_share": 1 / 17, "period_share": 4 / 17, "min_factor": 0.2}
    rates = trace(cyclic_restarts, 9, growth=1.0, **settings)
    assert rates == pytest.approx([BASE * f for f in (0.5, *first, *first)], abs=1e-12)
    rates = trace(cyclic_restarts, 14, growth=2.0, **settings)
    assert rates[:6] == pytest.approx([BASE * f for f in (0.5, *first, 1)], abs=1e-12)
    assert rates[9] == pytest.approx(BASE * 0.6)  # halfway through eight steps
    assert rates[13] == pytest.approx(BASE)


def test_one_cycle_by_hand() -> None:
    settings = {"total_steps": 11, "rise_share": 0.5, "start_factor": 0.2, "end_factor": 0.1}
    rates = trace(one_cycle, 11, shape="linear", **settings)
    # PyTorch's top is at step rise * total - 1 = 4.5, its end at step 10.
    rising = [0.2 + 0.8 * step / 4.5 for step in range(5)]
    falling = [1 - 0.9 * (step - 4.5) / 5.5 for step in range(5, 11)]
    assert rates == pytest.approx([BASE * f for f in (*rising, *falling)], abs=1e-9)
    cosines = trace(one_cycle, 11, shape="cos", **settings)
    assert cosines[0] == pytest.approx(BASE * 0.2)
    assert cosines[10] == pytest.approx(BASE * 0.1)
    assert cosines[2] == pytest.approx(BASE * (0.2 + 0.8 * 0.5 * (1 - math.cos(math.pi * 2 / 4.5))))


def plateau(values: list[float], *, lower_is_better: bool = True, **settings: Any) -> list[float]:
    """The rates after each evaluation, of which there is one per step."""
    stepped = optimizer()
    schedule = Plateau(stepped, **{"total_steps": 100, "warmup_share": 0.0} | settings)
    rates = []
    for value in values:
        stepped.step()
        schedule.step()
        schedule.evaluated(value, lower_is_better)
        rates.append(stepped.param_groups[0]["lr"] / BASE)
    return rates


def test_a_plateau_by_hand() -> None:
    values = [4.0, 3.0, 2.9999, 3.1, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    falls: dict[str, Any] = {"decay": 0.5, "patience": 2, "threshold": 1e-3, "min_factor": 0.3}
    expected = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.3, 0.3]
    assert plateau(values, **falls) == pytest.approx(expected)
    assert plateau([-v for v in values], lower_is_better=False, **falls) == pytest.approx(expected)


def test_a_plateau_is_pytorchs() -> None:
    values = [math.sin(n) + 3 / (1 + n) + 2 for n in range(60)]
    reference = optimizer()
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        reference, factor=0.7, patience=3, threshold=0.01, min_lr=BASE * 0.05
    )
    rates = []
    for value in values:
        theirs.step(value)
        rates.append(reference.param_groups[0]["lr"] / BASE)
    assert plateau(values, decay=0.7, patience=3, threshold=0.01, min_factor=0.05) == pytest.approx(rates)
    assert len(set(rates)) > 3


def test_a_plateau_within_the_warm_up_makes_nothing_fall() -> None:
    rates = plateau([1.0] * 12, total_steps=10, warmup_share=0.4, patience=0, decay=0.5)
    assert rates[:4] == pytest.approx([0.4, 0.6, 0.8, 0.5])  # the evaluation after step 4 is the first that counts
    assert rates[4] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("build", "settings", "words"),
    [
        (warmup_stable_decay, {"decay_share": 0.9, "warmup_share": 0.2}, "overlap"),
        (warmup_stable_decay, {"shape": "cubic"}, "must be linear or sqrt"),
        (cyclic_restarts, {"period_share": 0.0}, "period_share must be above 0"),
        (cyclic_restarts, {"growth": 0.5}, "growth must be at least 1"),
        (one_cycle, {"start_factor": 0.0}, "must be above 0"),
        (one_cycle, {"rise_share": 0.1}, "of 10 steps is a single one"),
        (Plateau, {"decay": 1.0}, "decay must be above 0 and below 1"),
        (Plateau, {"patience": -1}, "patience must be at least 0"),
        (linear, {"min_factor": -0.1}, "min_factor must lie between 0 and 1"),
    ],
)
def test_settings_out_of_range(build: Callable[..., LRScheduler], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(optimizer(), total_steps=10, **settings)
