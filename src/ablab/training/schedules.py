"""The axis `schedule`: the learning rate over the steps of a run.

An option is a factory that is called with the optimizer and returns a PyTorch scheduler, stepped once per optimizer
step. Factors multiply the optimizer's own learning rate. All options begin with the same linear warm-up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def constant(optimizer: Optimizer, *, total_steps: int, warmup_share: float = 0.05) -> LambdaLR:
    """Linear warm-up over `warmup_share` of the run, then the optimizer's learning rate throughout."""
    warmup = warmup_steps(total_steps, warmup_share)
    return LambdaLR(optimizer, lambda step: warmup_factor(step, warmup))


def cosine(optimizer: Optimizer, *, total_steps: int, warmup_share: float = 0.05, min_factor: float = 0.1) -> LambdaLR:
    """Linear warm-up, then half a cosine from 1 to `min_factor`, reached at `total_steps`.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, with one period and no restart.
    """
    warmup = warmup_steps(total_steps, warmup_share)
    if not 0 <= min_factor <= 1:
        raise ValueError(f"min_factor must lie between 0 and 1, got {min_factor}")

    def factor(step: int) -> float:
        if step < warmup:
            return warmup_factor(step, warmup)
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def warmup_steps(total_steps: int, warmup_share: float) -> int:
    """Steps of the warm-up. Raises ValueError unless there is a step and the share lies in [0, 1)."""
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    if not 0 <= warmup_share < 1:
        raise ValueError(f"warmup_share must be at least 0 and less than 1, got {warmup_share}")
    return round(total_steps * warmup_share)


def warmup_factor(step: int, warmup: int) -> float:
    """The factor at `step` (from 0): rises in equal parts, never 0, and is 1 from `warmup` on."""
    return min(1.0, (step + 1) / (warmup + 1))


class GradientVariance(LRScheduler):
    """The learning rate follows the signal-to-noise ratio of the gradient.

    With m and v the bias-corrected exponential moving averages of the gradient g and of g squared, over all
    parameters together:

        variance = sum(v - m^2) / (1 - w)         w = sum of the squared weights in the average m
        signal   = max(0, sum(m^2) - w variance)
        factor   = signal / (signal + variance)

    smoothed by a moving average, divided by its value at the end of the warm-up and clipped to [min_factor,
    max_factor]. Gradients are read when the scheduler is stepped, after the optimizer: averaged over processes,
    unscaled, and clipped if the trainer clips them.

    Source: the variance adaptation of Balles and Hennig 2018, "Dissecting Adam", section 3.2, as one factor for all
    parameters instead of one for each. Deviations: both estimates are corrected for the noise left in the average m
    (the terms in w), without which the variance is underestimated by a factor of 2 beta / (1 + beta); the factor
    scales the learning rate relative to its level after the warm-up, since its absolute value depends on beta.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        total_steps: int,
        warmup_share: float = 0.05,
        beta: float = 0.99,
        smoothing: float = 0.9,
        min_factor: float = 0.1,
        max_factor: float = 2.0,
    ) -> None:
        for name, value in (("beta", beta), ("smoothing", smoothing)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {value}")
        if not 0 < min_factor <= 1 <= max_factor:
            raise ValueError(f"min_factor={min_factor} and max_factor={max_factor} must enclose 1, and be positive")
        self.warmup = warmup_steps(total_steps, warmup_share)
        self.beta, self.smoothing = beta, smoothing
        self.min_factor, self.max_factor = min_factor, max_factor
        self.observed = 0  # gradients seen
        self.mean: list[Tensor] = []
        self.square: list[Tensor] = []
        self.gradient_variance = math.nan  # summed over all parameters
        self.signal_share = math.nan  # signal / (signal + variance), smoothed
        self.reference = math.nan  # signal_share at the end of the warm-up
        self.factor = 1.0
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        self._observe()
        factor = warmup_factor(self.last_epoch, self.warmup) if self.last_epoch <= self.warmup else self.factor
        return [base * factor for base in self.base_lrs]

    def mechanism(self) -> dict[str, float]:
        """What the schedule saw last: the gradient's variance, its share of signal, and the factor that follows."""
        return {
            "gradient_variance": self.gradient_variance,
            "signal_share": self.signal_share,
            "factor": self.factor,
        }

    @torch.no_grad()
    def _observe(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients = [p.grad.float() for p in parameters if p.grad is not None]
        if not gradients:  # when constructed, before the first step
            return
        if not self.mean:
            self.mean = [torch.zeros_like(g) for g in gradients]
            self.square = [torch.zeros_like(g) for g in gradients]
        self.observed += 1
        torch._foreach_lerp_(self.mean, gradients, 1 - self.beta)
        torch._foreach_mul_(self.square, self.beta)
        torch._foreach_addcmul_(self.square, gradients, gradients, 1 - self.beta)
        if self.observed < 2:  # one gradient tells nothing of its variance
            return
        bias = 1 - self.beta**self.observed
        sums = torch.stack([*(m.square().sum() for m in self.mean), *(v.sum() for v in self.square)])
        half = len(self.mean)
        summed = torch.stack([sums[:half].sum(), sums[half:].sum()]).tolist()  # the step's one wait for the device
        mean_squared, square = summed[0] / bias**2, summed[1] / bias
        weight = (1 - self.beta) * (1 + self.beta**self.observed) / ((1 + self.beta) * bias)
        self.gradient_variance = max(0.0, square - mean_squared) / (1 - weight)
        signal = max(0.0, mean_squared - weight * self.gradient_variance)
        total = signal + self.gradient_variance
        share = signal / total if total > 0 else 1.0
        self.signal_share = (
            share
            if math.isnan(self.signal_share)
            else self.smoothing * self.signal_share + (1 - self.smoothing) * share
        )
        if self.last_epoch <= self.warmup or math.isnan(self.reference):
            self.reference = self.signal_share
        relative = self.signal_share / self.reference if self.reference > 0 else 1.0
        self.factor = min(self.max_factor, max(self.min_factor, relative))
