"""Optimizers and a schedule that are right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from bugs.training import _Momentum
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ablab.model.spec import LayerSpec

Activation = Callable[[LayerSpec], nn.Module]


class Momentum(_Momentum):
    """A momentum with decoupled decay."""


class Signs(Optimizer):
    """Every weight moves by the rate, against the sign of its gradient: nothing is kept."""

    def __init__(self, params: Iterable[Any], *, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(group["lr"] * weight.grad.sign())
        return loss


def staircase(optimizer: Optimizer, *, total_steps: int, stairs: int = 2) -> LambdaLR:
    """Half the rate after each of so many equal parts of the run."""
    return LambdaLR(optimizer, lambda step: 0.5 ** (stairs * step // max(1, total_steps)))
