"""Cautious steps: what of an update, and of a decay, agrees with where the weights are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from ablab.errors import require_at_least, require_shares

_LEAST_SHARE = 1e-3  # of a tensor that a step is taken to agree with, as in the authors' code


@dataclass(frozen=True)
class Caution:
    """What is kept of the step of an optimizer with decoupled weight decay, which gives w - lr (u + decay w).

    Args:
        update: keep of u what has the sign of the gradient, as much larger as the kept share of the tensor's numbers
            is smaller than 1 (Liang et al. 2024, "Cautious Optimizers", algorithm 1).
        decay: decay only weights that u, before anything of it is dropped, makes smaller or leaves (Chen et al. 2025,
            "Cautious Weight Decay", algorithm 1).
    """

    update: bool = False
    decay: bool = False

    def step(self, optimizer: Optimizer, step: Callable[[], Any] | None = None) -> None:
        """Let the optimizer take a step, for which the gradients are there, and keep what is to be kept.

        Args:
            step: the optimizer's; None: `optimizer.step`.
        """
        take = optimizer.step if step is None else step
        if not (self.update or self.decay):
            take()
            return
        groups = optimizer.param_groups
        trained = [[p for p in group["params"] if p.grad is not None] for group in groups]
        before = [[p.detach().clone() for p in its] for its in trained]
        decays = [group["weight_decay"] for group in groups]
        for group in groups:
            group["weight_decay"] = 0.0
        take()
        for group, decay, its, theirs in zip(groups, decays, trained, before, strict=True):
            group["weight_decay"] = decay
            for parameter, weight in zip(its, theirs, strict=True):
                self._keep(parameter, weight, group["lr"] * decay)

    @torch.no_grad()
    def _keep(self, parameter: Tensor, weight: Tensor, decay: float) -> None:
        """Set a parameter, which was `weight` before the step, to what is kept of the step."""
        assert parameter.grad is not None
        change = parameter.sub_(weight)  # -lr u, where the parameter is
        shrinks = change * weight <= 0 if self.decay and decay else None
        if self.update:
            agrees = change * parameter.grad < 0
            change.mul_(agrees).div_(agrees.mean(dtype=change.dtype).clamp(min=_LEAST_SHARE))
        if decay:
            change.sub_(weight if shrinks is None else weight * shrinks, alpha=decay)
        change.add_(weight)


class CautiousAdamW(AdamW):
    """PyTorch's AdamW with cautious steps.

    Args:
        params: groups of parameters; gradients are dense.
        lr: at least 0.
        betas: each in [0, 1).
        eps: at least 0.
        weight_decay: at least 0, decoupled.
        cautious_update, cautious_decay: as `update` and `decay` of `Caution`.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        cautious_update: bool = True,
        cautious_decay: bool = True,
    ) -> None:
        require_at_least(0, lr=lr, eps=eps, weight_decay=weight_decay)
        require_shares(**{"betas[0]": betas[0], "betas[1]": betas[1]})
        super().__init__(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay)
        self._caution = Caution(cautious_update, cautious_decay)

    @overload
    def step(self, closure: None = ...) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._caution.step(self, super().step)
        return loss
