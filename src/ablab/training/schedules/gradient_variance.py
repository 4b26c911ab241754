"""A learning rate that adapts to the variance of the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import StateDict

from ablab.training import foreach
from ablab.training.schedules.warmup import warmup_factor, warmup_steps


class GradientVariance(LRScheduler):
    """The learning rate follows the signal-to-noise ratio of the gradient.

    With m and v the bias-corrected exponential moving averages of the gradient g and of g squared, over all
    parameters together:

        variance = sum(v - m^2) / (1 - w)         w = sum of the squared weights in the average m
        signal   = max(0, sum(m^2) - w variance)
        factor   = signal / (signal + variance)

    smoothed by a moving average, divided by its value at the end of the warm-up and clipped to [min_factor,
    max_factor]. Gradients are read when the scheduler is stepped, after the optimizer: averaged over processes,
    unscaled, and clipped if the trainer clips them. Those that are not finite, as where float16 overflows and the
    optimizer takes no step, are left out.

    With `per_group` each of the optimizer's groups of parameters has sums and a factor of its own.

    Source: the variance adaptation of Balles and Hennig 2018, "Dissecting Adam", section 3.2, as one factor for all
    parameters instead of one for each. Deviations: both estimates are corrected for the noise left in the average m
    (the terms in w), without which the variance is underestimated by a factor of 2 beta / (1 + beta); the factor
    scales the learning rate relative to its level after the warm-up, since its absolute value depends on beta.

    An optimizer over shards of parameters that other processes hold the rest of has a function `global_sums`, which
    makes of sums over each shard (..., P) sums over each parameter.
    """

    reads_gradients = True  # so that processes must see the same ones, or their rates would part
    per_parameter = ("mean", "square")  # state with one tensor for each of the optimizer's parameters, in their order

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
        per_group: bool = False,
    ) -> None:
        if not 0 < beta < 1:
            raise ValueError(f"beta must be above 0 and less than 1, got {beta}: one gradient alone has no variance")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be at least 0 and less than 1, got {smoothing}")
        if not 0 < min_factor <= 1 <= max_factor:
            raise ValueError(f"min_factor={min_factor} and max_factor={max_factor} must enclose 1, and be positive")
        self.warmup = warmup_steps(total_steps, warmup_share)
        self.beta, self.smoothing = beta, smoothing
        self.min_factor, self.max_factor = min_factor, max_factor
        self.observed = 0  # gradients seen
        self.mean: list[Tensor] = []
        self.square: list[Tensor] = []
        of_groups = [list(group["params"]) for group in optimizer.param_groups]
        self._parts = [sum(map(len, of_groups))] if not per_group else [len(group) for group in of_groups]
        parts = len(self._parts)
        # One figure per part of the parameters: all of them, or each group.
        self.gradient_variance = [math.nan] * parts  # summed over the part's parameters
        self.signal_share = [math.nan] * parts  # signal / (signal + variance), smoothed
        self.reference = [math.nan] * parts  # signal_share at the end of the warm-up
        self.factor = [1.0] * parts
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        self._observe()
        rising = self.last_epoch <= self.warmup
        factors = [warmup_factor(self.last_epoch, self.warmup)] * len(self.factor) if rising else self.factor
        each = factors if len(factors) == len(self.base_lrs) else factors * len(self.base_lrs)
        return [base * factor for base, factor in zip(self.base_lrs, each, strict=True)]

    def mechanism(self) -> dict[str, float]:
        """What the schedule saw last: the gradient's variance, its share of signal, and the factor that follows.

        With several parts the variance is their sum, and the others are each part's own ("factor/group_1").
        """
        metrics = {"gradient_variance": sum(self.gradient_variance)}
        for name, values in (("signal_share", self.signal_share), ("factor", self.factor)):
            several = len(values) > 1
            metrics |= {f"{name}/group_{i}" if several else name: value for i, value in enumerate(values)}
        return metrics

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on with averages that lie where the parameters do. What the parts of these are, the optimizer says."""
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "_parts"})
        if self.mean:
            devices = [p.device for p in self._parameters]
            for name in self.per_parameter:
                restored = zip(getattr(self, name), devices, strict=True)
                setattr(self, name, [tensor.to(device) for tensor, device in restored])

    @property
    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def _observe(self) -> None:
        parameters = self._parameters
        if all(p.grad is None for p in parameters):  # when constructed, before the first step
            return
        # One that has no gradient now and then counts as zero, so that what is remembered stays in its place.
        gradients = [torch.zeros_like(p, dtype=torch.float32) if p.grad is None else p.grad.float() for p in parameters]
        # Summed over all processes, so that each leaves out the same steps. One such step would stay in the averages.
        if not self._global_sums(torch.stack([g.norm().square() for g in gradients])).isfinite().all():
            return
        if not self.mean:
            self.mean = [torch.zeros_like(g) for g in gradients]
            self.square = [torch.zeros_like(g) for g in gradients]
        self.observed += 1
        foreach.lerp_(self.mean, gradients, 1 - self.beta)
        foreach.mul_(self.square, self.beta)
        foreach.addcmul_(self.square, gradients, gradients, 1 - self.beta)
        if self.observed < 2:  # one gradient tells nothing of its variance
            return
        sums = torch.stack(
            [torch.stack([x.sum() for x in of]) for of in ([m.square() for m in self.mean], self.square)]
        )
        sums = self._global_sums(sums)
        of_parts = torch.stack([part.sum(-1) for part in sums.split(self._parts, -1)])
        for part, (mean_squared, square) in enumerate(of_parts.tolist()):
            self._judge(part, mean_squared, square)

    def _global_sums(self, sums: Tensor) -> Tensor:
        of_shards: Callable[[Tensor], Tensor] | None = getattr(self.optimizer, "global_sums", None)
        return sums if of_shards is None else of_shards(sums)

    def _judge(self, part: int, mean_squared: float, square: float) -> None:
        """From the sums of m^2 and of v over a part of the parameters, before correction of their bias."""
        bias = 1 - self.beta**self.observed
        mean_squared, square = mean_squared / bias**2, square / bias
        weight = (1 - self.beta) * (1 + self.beta**self.observed) / ((1 + self.beta) * bias)
        variance = max(0.0, square - mean_squared) / (1 - weight)
        signal = max(0.0, mean_squared - weight * variance)
        total = signal + variance
        share, before = signal / total if total > 0 else 1.0, self.signal_share[part]
        share = share if math.isnan(before) else self.smoothing * before + (1 - self.smoothing) * share
        if self.last_epoch <= self.warmup or math.isnan(self.reference[part]):
            self.reference[part] = share
        relative = share / self.reference[part] if self.reference[part] > 0 else 1.0
        self.gradient_variance[part], self.signal_share[part] = variance, share
        self.factor[part] = min(self.max_factor, max(self.min_factor, relative))
