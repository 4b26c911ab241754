"""Optimizers and schedules that do other things than they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


class _Momentum(Optimizer):
    """w <- w - lr (m + weight_decay w), m <- beta m + g: right as it is, and changed in a line or two."""

    def __init__(
        self, params: Iterable[Any], *, lr: float = 1e-2, beta: float = 0.9, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.change(group, weight, weight.grad)
        return loss

    def change(self, group: dict[str, Any], weight: Tensor, grad: Tensor) -> None:
        """Take the step of one parameter."""
        momentum = self.kept(weight).mul_(group["beta"]).add_(grad)
        weight.sub_(self.rate(group) * (momentum + self.decay(group) * weight))

    def kept(self, weight: Tensor) -> Tensor:
        """The momentum of a parameter."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum

    def rate(self, group: dict[str, Any]) -> float:
        return float(group["lr"])

    def decay(self, group: dict[str, Any]) -> float:
        return float(group["weight_decay"])


class DecaysAll(_Momentum):
    """Weight decay of the defaults on every group, norms and biases included."""

    def decay(self, group: dict[str, Any]) -> float:
        return float(self.defaults["weight_decay"])


class RateOfTheDefaults(_Momentum):
    """The rate of the defaults and not of the group: no schedule has an effect."""

    def rate(self, group: dict[str, Any]) -> float:
        return float(self.defaults["lr"])


class BetaIgnored(_Momentum):
    """Takes a beta, and has another one."""

    def change(self, group: dict[str, Any], weight: Tensor, grad: Tensor) -> None:
        super().change(group | {"beta": 0.9}, weight, grad)


class ForgetsItsState(_Momentum):
    """The momenta lie in a dict of its own, which no checkpoint has."""

    def __init__(
        self, params: Iterable[Any], *, lr: float = 1e-2, beta: float = 0.9, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, lr=lr, beta=beta, weight_decay=weight_decay)
        self._momenta: dict[int, Tensor] = {}

    def kept(self, weight: Tensor) -> Tensor:
        return self._momenta.setdefault(id(weight), torch.zeros_like(weight))


class CountsByItself(_Momentum):
    """Its correction of the bias counts steps in an attribute that no checkpoint has."""

    def __init__(
        self, params: Iterable[Any], *, lr: float = 1e-2, beta: float = 0.9, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, lr=lr, beta=beta, weight_decay=weight_decay)
        self.steps = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        self.steps += 1
        return super().step(closure)

    def rate(self, group: dict[str, Any]) -> float:
        return super().rate(group) / (1 - float(group["beta"]) ** self.steps) / 10


class LeavesTheClosure(Adam):
    """The closure is not called: Lightning computes gradients in it, and nothing is ever learned."""

    def __init__(self, params: Iterable[Any], *, lr: float = 1e-3) -> None:
        super().__init__(params, lr=lr)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return super().step()


class Ascends(_Momentum):
    """The sign is wrong: the loss goes up."""

    def rate(self, group: dict[str, Any]) -> float:
        return -super().rate(group)


class NoisyByTheClock(_Momentum):
    """Adds noise from a generator that nobody seeds."""

    def __init__(
        self, params: Iterable[Any], *, lr: float = 1e-2, beta: float = 0.9, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, lr=lr, beta=beta, weight_decay=weight_decay)
        self._generator = torch.Generator()
        self._generator.seed()

    def change(self, group: dict[str, Any], weight: Tensor, grad: Tensor) -> None:
        noise = torch.randn(grad.shape, generator=self._generator).to(grad)
        super().change(group, weight, grad + 0.01 * noise)


class FirstGroupOnly(_Momentum):
    """Trains the first group of parameters alone."""

    def change(self, group: dict[str, Any], weight: Tensor, grad: Tensor) -> None:
        if group is self.param_groups[0]:
            super().change(group, weight, grad)


class BetasSwapped(AdamW):
    """Adam whose betas change places: the average of the squares is the faster one."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(params, lr=lr, betas=(0.9, 0.9), weight_decay=weight_decay)


class GradientsKeptInPlace(_Momentum):
    """Changes the gradients themselves, which clipping, logging and accumulation look at."""

    def change(self, group: dict[str, Any], weight: Tensor, grad: Tensor) -> None:
        grad.mul_(0.5).add_(weight, alpha=group["weight_decay"])
        super().change(group, weight, grad)


def negative_in_the_end(optimizer: Optimizer, *, total_steps: int) -> LambdaLR:
    """A line that ends before the run does, and goes on below zero."""
    return LambdaLR(optimizer, lambda step: 1 - step / (0.8 * total_steps))


def counts_by_itself(optimizer: Optimizer, *, total_steps: int) -> LambdaLR:
    """Counts its calls in a variable that no checkpoint has."""
    calls = 0

    def factor(step: int) -> float:
        nonlocal calls
        calls += 1
        return 1 / math.sqrt(calls)

    return LambdaLR(optimizer, factor)


def never_moves(optimizer: Optimizer, *, total_steps: int, decay: float = 0.5) -> LambdaLR:
    """Counts in epochs, of which there are none: constant."""
    return LambdaLR(optimizer, lambda step: (1 - decay) ** (step // 10**6))


class OneRateForAll(LRScheduler):
    """All groups get the first one's rate."""

    def __init__(self, optimizer: Optimizer, *, total_steps: int) -> None:
        self.total = total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        rate = self.base_lrs[0] * (1 - 0.9 * self.last_epoch / self.total)
        return [rate for _ in self.base_lrs]


def length_ignored(optimizer: Optimizer, *, total_steps: int, warmup: int = 100) -> LambdaLR:
    """Takes the number of steps and the warm-up's, and goes by another one."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 1000))


class NegativeWhenShort(LRScheduler):
    """Takes a warm-up of ten steps off a run that has fewer: rates below zero, of some groups alone."""

    def __init__(self, optimizer: Optimizer, *, total_steps: int) -> None:
        self.total = total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        first, *others = self.base_lrs
        left = min(1.0, (self.total - 10) / self.total) if self.total < 10 else 1.0
        return [first, *(base * left for base in others)]


class IdleBesideALiveOne(LRScheduler):
    """Of its two numbers one is never read."""

    def __init__(self, optimizer: Optimizer, *, total_steps: int, power: float = 2.0, floor: float = 0.1) -> None:
        self.total, self.floor = total_steps, floor
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        left = max(0.0, 1 - self.last_epoch / self.total) ** 2
        return [base * (self.floor + (1 - self.floor) * left) for base in self.base_lrs]


class DrawsItsRate(LRScheduler):
    """Rates with noise from torch's own generator: batches and masks after it are moved, and no two runs alike."""

    def __init__(self, optimizer: Optimizer, *, total_steps: int) -> None:
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [base * (0.5 + torch.rand(()).item()) for base in self.base_lrs]
