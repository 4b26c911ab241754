"""Schedule-free AdamW by its authors, with values checked and gradients left as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, overload

import schedulefree
from torch import Tensor

from ablab.errors import require_at_least, require_shares


class AdamWScheduleFree(schedulefree.AdamWScheduleFree):
    """AdamW at a point between two sequences, one of which averages the other (Defazio et al. 2024, algorithm 1).

    With y the weights that the gradient is taken at, z the sequence that takes the steps, and x its average, which is
    what is evaluated:

        y = (1 - b1) z + b1 x
        z <- z - lr (g / (sqrt(v) + eps) + weight_decay y)
        x <- (1 - c) x + c z

    v is Adam's bias-corrected average of g squared, and c the step's share in the sum of the weights
    step^r lr_max^weight_lr_power. The parameters hold y in training and x in evaluation: `train()` and `eval()` change
    over. The arithmetic is that of the package `schedulefree`, which refuses nothing and overwrites the gradients.
    Here values are checked, and a schedule that looks at the gradients after the step sees what they were; that takes
    a copy of them during the step.

    Args:
        params: groups of parameters.
        lr: at least 0.
        betas: b1, above 0 (with 0 the average could not be found again from y and z) and at most 1; b2 in [0, 1).
        eps: at least 0.
        weight_decay: at least 0, per unit of the learning rate, of y.
        warmup_steps: steps over which the learning rate grows linearly, on top of what the schedule does.
        r: at least 0, power of the step in the average's weights.
        weight_lr_power: at least 0, power of the greatest learning rate so far in the average's weights.

    Raises:
        ValueError: a value is out of its range.
    """

    width_rule: ClassVar = "elementwise"  # see `ablab.training.optimizers.widths`

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        require_at_least(0, lr=lr, eps=eps, weight_decay=weight_decay, warmup_steps=warmup_steps)
        require_at_least(0, r=r, weight_lr_power=weight_lr_power)
        if not 0 < betas[0] <= 1:
            raise ValueError(f"betas[0]={betas[0]} must be above 0 and at most 1")
        require_shares(**{"betas[1]": betas[1]})
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
        )

    @overload
    def step(self, closure: None = ...) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        # The closure runs first: gradients that it makes must be there to be copied.
        loss = None if closure is None else closure()
        kept: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    kept.append((parameter, parameter.grad))
                    parameter.grad = parameter.grad.clone()
        super().step()
        for parameter, gradient in kept:
            parameter.grad = gradient
        return loss
