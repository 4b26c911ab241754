"""The learning rate falls when the validation metric has stopped improving."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ablab.training.schedules.warmup import warmup_factor, warmup_steps


class Plateau(LRScheduler):
    """Linear warm-up, then a factor that is multiplied by `decay` after each `patience` + 1 evaluations without gain.

    The rule is that of PyTorch's `ReduceLROnPlateau` with a relative threshold and no cooldown, counted in evaluations
    and never in steps. Evaluations within the warm-up count as the first to be beaten, and make nothing fall.

    Args:
        decay: above 0 and below 1.
        patience: evaluations without gain that are let pass, at least 0.
        threshold: a gain is larger than this share of the best value so far, at least 0.
        min_factor: of the optimizer's learning rate, in [0, 1].

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        total_steps: int,
        warmup_share: float = 0.05,
        decay: float = 0.5,
        patience: int = 2,
        threshold: float = 1e-3,
        min_factor: float = 0.01,
    ) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must be above 0 and below 1, got {decay}")
        if patience < 0:
            raise ValueError(f"patience must be at least 0, got {patience}")
        if threshold < 0:
            raise ValueError(f"threshold must be at least 0, got {threshold}")
        if not 0 <= min_factor <= 1:
            raise ValueError(f"min_factor must lie between 0 and 1, got {min_factor}")
        self.warmup = warmup_steps(total_steps, warmup_share)
        self.decay, self.patience, self.threshold, self.min_factor = decay, patience, threshold, min_factor
        self.factor = 1.0
        self.best = math.inf  # of the metric, its sign turned such that lower is better
        self.without_gain = 0
        self.reductions = 0
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [base * warmup_factor(self.last_epoch, self.warmup) * self.factor for base in self.base_lrs]

    def evaluated(self, value: float, lower_is_better: bool) -> None:
        """Hear of an evaluation's primary metric. What follows from it holds from the next step on."""
        value = value if lower_is_better else -value
        if value < self.best - self.threshold * abs(self.best) or math.isinf(self.best):
            self.best, self.without_gain = value, 0
            return
        if self.last_epoch < self.warmup:
            return
        self.without_gain += 1
        if self.without_gain > self.patience:
            self.without_gain = 0
            lower = max(self.min_factor, self.factor * self.decay)
            self.reductions += lower < self.factor
            self.factor = lower
            for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
                group["lr"] = rate

    def mechanism(self) -> dict[str, float]:
        """How often the rate has fallen, and where it stands."""
        return {"reductions": float(self.reductions), "factor": self.factor}
