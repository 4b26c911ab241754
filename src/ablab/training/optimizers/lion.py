"""Lion: the sign of a momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from ablab.errors import require_at_least, require_shares
from ablab.training import foreach
from ablab.training.optimizers.cautious import Caution


class Lion(Optimizer):
    """Every weight moves by the learning rate, up or down (Chen et al. 2023, "Symbolic Discovery of Optimization
    Algorithms", algorithm 2).

    With g the gradient and m the momentum, 0 at first:

        w <- w - lr (sign(b1 m + (1 - b1) g) + weight_decay w)
        m <- b2 m + (1 - b2) g

    One number is kept per weight where Adam keeps two. The step's size does not depend on the gradient's, so that the
    source takes learning rates 3 to 10 times smaller than AdamW's, and weight decays as many times larger.

    Args:
        params: groups of parameters; gradients are dense.
        lr: at least 0; what every weight moves by, in its own unit.
        betas: b1 of the step and b2 of the momentum, each in [0, 1).
        weight_decay: at least 0, decoupled: per step, lr times this share of the weight is taken off.
        cautious_update, cautious_decay: as `update` and `decay` of `Caution`.

    Raises:
        ValueError: a value is out of its range.
    """

    width_rule: ClassVar = "elementwise"  # see `ablab.training.optimizers.widths`

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.3,
        cautious_update: bool = False,
        cautious_decay: bool = False,
    ) -> None:
        require_at_least(0, lr=lr, weight_decay=weight_decay)
        require_shares(**{"betas[0]": betas[0], "betas[1]": betas[1]})
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self._caution = Caution(cautious_update, cautious_decay)

    @overload
    def step(self, closure: None = ...) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._caution.step(self, self._step_all)
        return loss

    def _step_all(self) -> None:
        for group in self.param_groups:
            self._step(group)

    def _step(self, group: dict[str, Any]) -> None:
        """All parameters of the group at once: on small models a loop over them takes longer than the arithmetic."""
        lr, decay, (for_step, for_momentum) = group["lr"], group["weight_decay"], group["betas"]
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        gradients = [p.grad for p in parameters]
        momenta = [self._momentum(p) for p in parameters]
        directions = foreach.lerp(momenta, gradients, 1 - for_step)
        foreach.sign_(directions)
        if decay:
            foreach.mul_(parameters, 1 - lr * decay)
        foreach.add_(parameters, directions, alpha=-lr)
        foreach.lerp_(momenta, gradients, 1 - for_momentum)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        momentum: Tensor = state["momentum"]
        return momentum
