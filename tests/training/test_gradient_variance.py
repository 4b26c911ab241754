"""The schedule that follows the gradient's signal-to-noise ratio, on gradients whose ratio is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from ablab.training.schedules.gradient_variance import GradientVariance

SHAPES = ((40, 50), (1000,))
SIZE = 3000


class Gradients:
    """Two parameters whose gradients are `mean` plus noise of standard deviation `noise`, and their schedule."""

    def __init__(self, **settings: Any) -> None:
        self.parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
        self.optimizer = torch.optim.SGD(self.parameters, lr=1.0)
        self.schedule = GradientVariance(self.optimizer, **{"total_steps": 1000, "warmup_share": 0.0} | settings)
        self.generator = torch.Generator().manual_seed(0)

    def step(self, times: int, mean: float, noise: float) -> float:
        """The learning rate that follows so many more steps."""
        for _ in range(times):
            for parameter in self.parameters:
                parameter.grad = mean + noise * torch.randn(parameter.shape, generator=self.generator)
            self.optimizer.step()
            self.schedule.step()
        return float(self.optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("beta", [0.8, 0.99])
@pytest.mark.parametrize(("mean", "noise"), [(0.5, 1.0), (0.1, 2.0), (3.0, 1.0)])
@pytest.mark.parametrize("steps", [20, 400])
def test_variance_and_share_of_signal_are_the_true_ones(beta: float, mean: float, noise: float, steps: int) -> None:
    """Also early, when the averages still remember few gradients, and for a short memory, whose mean is noisy."""
    gradients = Gradients(beta=beta, smoothing=0.0)
    gradients.step(steps, mean, noise)
    seen = gradients.schedule.mechanism()
    assert seen["gradient_variance"] == pytest.approx(SIZE * noise**2, rel=0.05)
    assert seen["signal_share"] == pytest.approx(mean**2 / (mean**2 + noise**2), abs=0.03)


def test_noise_lowers_the_learning_rate_and_signal_raises_it() -> None:
    settings = {"warmup_share": 0.1, "total_steps": 500, "beta": 0.9, "smoothing": 0.5}
    noisy, clear = Gradients(**settings), Gradients(**settings)
    for each in (noisy, clear):
        assert each.step(50, mean=1.0, noise=1.0) == pytest.approx(1.0)  # the reference: half of it signal
    assert noisy.schedule.reference == pytest.approx([0.5], abs=0.03)
    assert noisy.step(100, mean=0.5, noise=1.0) == pytest.approx(0.2 / 0.5, rel=0.1)
    assert clear.step(100, mean=3.0, noise=1.0) == pytest.approx(0.9 / 0.5, rel=0.1)


def test_the_factor_stays_within_its_bounds() -> None:
    settings = {"warmup_share": 0.1, "total_steps": 500, "beta": 0.9, "smoothing": 0.5}
    bounds = {"min_factor": 0.4, "max_factor": 1.25}
    noisy, clear = Gradients(**settings, **bounds), Gradients(**settings, **bounds)
    noisy.step(50, mean=1.0, noise=1.0)
    clear.step(50, mean=1.0, noise=1.0)
    assert noisy.step(100, mean=0.0, noise=1.0) == 0.4
    assert clear.step(100, mean=1.0, noise=0.0) == 1.25


def test_the_warm_up_is_that_of_all_schedules_and_the_rate_goes_on_from_it() -> None:
    gradients = Gradients(warmup_share=0.3, total_steps=10)
    rates = [gradients.step(1, mean=1.0, noise=1.0) for _ in range(3)]
    assert rates == pytest.approx([2 / 4, 3 / 4, 1.0])
    assert gradients.step(1, mean=1.0, noise=1.0) == pytest.approx(1.0, abs=0.05)


def test_gradients_of_lower_precision_are_read_in_full() -> None:
    parameter = nn.Parameter(torch.zeros(100, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = GradientVariance(optimizer, total_steps=10)
    for _ in range(5):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        schedule.step()
    assert schedule.mechanism()["signal_share"] == pytest.approx(1.0)


@pytest.mark.parametrize("broken", [math.inf, math.nan, 1e30])  # the square of the last is none of float32's numbers
@pytest.mark.parametrize("at", [0, 60])
def test_a_gradient_that_overflows_is_left_out(broken: float, at: int) -> None:
    """As if there had been none, though the schedule is stepped at it."""
    settings = {"warmup_share": 0.1, "total_steps": 500, "beta": 0.9, "smoothing": 0.5}
    without, with_one = Gradients(**settings), Gradients(**settings)
    for each in (without, with_one):
        each.step(at, mean=1.0, noise=1.0)
        each.optimizer.zero_grad()
        each.optimizer.step()
    with_one.parameters[0].grad = torch.full(SHAPES[0], broken)
    for each in (without, with_one):
        each.schedule.step()
    rates = [each.step(100, mean=0.5, noise=1.0) for each in (without, with_one)]
    assert rates[0] == rates[1] != 1.0
    assert without.schedule.mechanism() == with_one.schedule.mechanism()


def test_what_is_restored_lies_where_the_parameters_do() -> None:
    """Whichever device wrote it; and the groups are those of the optimizer that goes on."""
    before = Gradients(per_group=True)
    before.step(3, mean=1.0, noise=1.0)
    meta = torch.optim.SGD([nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES], lr=1.0)
    after = GradientVariance(meta, total_steps=1000, warmup_share=0.0)
    after.load_state_dict(before.schedule.state_dict() | {"_parts": [1]})
    assert after.observed == 3
    assert {tensor.device.type for tensor in (*after.mean, *after.square)} == {"meta"}
    assert after._parts == [2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 1.0}, "beta must be above 0 and less than 1, got 1.0"),
        ({"beta": 0.0}, "beta must be above 0 and less than 1, got 0.0: one gradient alone has no variance"),
        ({"smoothing": -0.5}, "smoothing must be at least 0 and less than 1, got -0.5"),
        ({"min_factor": 0.0}, "min_factor=0.0 and max_factor=2.0 must enclose 1"),
        ({"max_factor": 0.5}, "min_factor=0.1 and max_factor=0.5 must enclose 1"),
    ],
)
def test_numbers_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Gradients(**settings)


def test_each_group_follows_its_own_gradients() -> None:
    """One group becomes noisier after the warm-up, the other does not."""
    parameters = [nn.Parameter(torch.zeros(2000)) for _ in range(3)]
    groups: list[dict[str, Any]] = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = GradientVariance(optimizer, total_steps=500, warmup_share=0.1, beta=0.9, smoothing=0.5, per_group=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(150):
        for parameter, later in zip(parameters, (0.5, 1.0, 1.0), strict=True):
            mean = 1.0 if step < 50 else later
            parameter.grad = mean + torch.randn(2000, generator=generator)
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 / 0.5, rel=0.1)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.5, rel=0.05)
    seen = schedule.mechanism()
    assert seen["factor/group_0"] == pytest.approx(0.4, rel=0.1)
    assert seen["gradient_variance"] == pytest.approx(6000, rel=0.05)


def test_a_quadratic_with_known_noise() -> None:
    """The loss 1/2 |x|^2 whose gradient x comes with noise: around its minimum the gradient is noise alone."""
    x = nn.Parameter(torch.full((3000,), 0.0))
    optimizer = torch.optim.SGD([x], lr=0.01)
    schedule = GradientVariance(optimizer, total_steps=400, warmup_share=0.0, beta=0.95, min_factor=1.0, max_factor=1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        optimizer.zero_grad()
        (0.5 * x.square().sum()).backward()
        assert x.grad is not None
        x.grad += 0.7 * torch.randn(3000, generator=generator)
        optimizer.step()
        schedule.step()
    assert schedule.mechanism()["gradient_variance"] == pytest.approx(3000 * 0.7**2, rel=0.05)
