"""Schedules that are a function of the step alone, as factors of the optimizer's learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from ablab.training.schedules.warmup import warmup_factor
from ablab.training.schedules.warmup import warmup_steps as steps_of_warmup


def constant(optimizer: Optimizer, *, total_steps: int, warmup_share: float = 0.05) -> LambdaLR:
    """Linear warm-up over `warmup_share` of the run, then the optimizer's learning rate throughout."""
    warmup = steps_of_warmup(total_steps, warmup_share)
    return LambdaLR(optimizer, lambda step: warmup_factor(step, warmup))


def linear(optimizer: Optimizer, *, total_steps: int, warmup_share: float = 0.05, min_factor: float = 0.0) -> LambdaLR:
    """Linear warm-up, then a straight line from 1 to `min_factor`, reached at `total_steps` (Devlin et al. 2019)."""
    _check_share("min_factor", min_factor)
    return _after_warmup(optimizer, total_steps, warmup_share, lambda x: 1 + (min_factor - 1) * x)


def cosine(optimizer: Optimizer, *, total_steps: int, warmup_share: float = 0.05, min_factor: float = 0.1) -> LambdaLR:
    """Linear warm-up, then half a cosine from 1 to `min_factor`, reached at `total_steps`.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, with one period and no restart.
    """
    _check_share("min_factor", min_factor)
    return _after_warmup(optimizer, total_steps, warmup_share, lambda x: _half_cosine(x, min_factor))


def inverse_sqrt(optimizer: Optimizer, *, total_steps: int, warmup_share: float = 0.05) -> LambdaLR:
    """Linear warm-up over w steps, then sqrt((w + 1) / (t + 1)) at step t, from 0 (Vaswani et al. 2017, equation 3).

    Deviation: the level after the warm-up is the optimizer's learning rate, not one that follows from the width.
    """
    warmup = steps_of_warmup(total_steps, warmup_share)
    return LambdaLR(
        optimizer, lambda step: warmup_factor(step, warmup) if step < warmup else math.sqrt((warmup + 1) / (step + 1))
    )


@dataclass(frozen=True)
class Branch:
    """A shorter run on the way of a longer one: both are alike until the shorter one decays.

    Attributes:
        steps: of the shorter run.
        start: steps after which its decay begins.
        settings: of the schedule that the shorter run has by itself.
    """

    steps: int
    start: int
    settings: Mapping[str, Any]


@runtime_checkable
class Branching(Protocol):
    """A schedule with a stable phase, from which shorter runs may decay."""

    branches: Sequence[Branch]


class StableDecay(LambdaLR):
    """A `LambdaLR` that knows its branches, which are no part of its state."""

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float], branches: Sequence[Branch]) -> None:
        self.branches = branches
        super().__init__(optimizer, factor)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = super().state_dict()
        del state["branches"]
        return state


def warmup_stable_decay(
    optimizer: Optimizer,
    *,
    total_steps: int,
    warmup_share: float = 0.05,
    warmup_steps: int | None = None,
    decay_share: float = 0.2,
    min_factor: float = 0.0,
    shape: Literal["linear", "sqrt"] = "sqrt",
    anneal_at: Sequence[float] = (),
) -> StableDecay:
    """Linear warm-up, the optimizer's learning rate, and over the last `decay_share` of the run down to `min_factor`.

    The way down is a line, or 1 - sqrt(x) of the share x of it that is done (Haegele et al. 2024, section 3; the
    schedule as a whole: Hu et al. 2024, "MiniCPM", section 4).

    Args:
        warmup_steps: in place of the share.
        anneal_at: shares of the run, at each of which it gives a shorter run of that length, with as many steps of
            warm-up and the same share of decay, on its way (Haegele et al. 2024, section 4).

    Raises:
        ValueError: a share lies outside of [0, 1], warm-up and decay overlap, or a shorter run has no stable phase.
    """
    warmup = _warmup(total_steps, warmup_share, warmup_steps)
    _check_share("decay_share", decay_share)
    _check_share("min_factor", min_factor)
    if shape not in ("linear", "sqrt"):
        raise ValueError(f"shape={shape}: must be linear or sqrt")
    decay = round(total_steps * decay_share)
    if warmup + decay > total_steps:
        raise ValueError(
            f"warmup_share={warmup_share} and decay_share={decay_share} overlap: together they must be at most 1"
        )

    def factor(step: int) -> float:
        if step <= total_steps - decay:
            return warmup_factor(step, warmup)
        done = min(1.0, (step - (total_steps - decay)) / decay)
        return min_factor + (1 - min_factor) * (1 - (done if shape == "linear" else math.sqrt(done)))

    return StableDecay(optimizer, factor, _branches(anneal_at, total_steps, warmup, decay_share))


def _warmup(total_steps: int, share: float, steps: int | None) -> int:
    if steps is None:
        return steps_of_warmup(total_steps, share)
    if not 0 <= steps < max(1, total_steps):
        raise ValueError(f"warmup_steps={steps}: must be at least 0 and less than the {total_steps} steps of the run")
    return steps


def _branches(shares: Sequence[float], total: int, warmup: int, decay_share: float) -> tuple[Branch, ...]:
    branches: list[Branch] = []
    for share in sorted(shares):
        if not 0 < share < 1:
            raise ValueError(f"anneal_at={share:g}: must be a share of the run, more than 0 and less than 1")
        steps = round(total * share)
        start = steps - round(steps * decay_share)
        if start < max(1, warmup):
            raise ValueError(
                f"anneal_at={share:g}: a run of {steps} steps decays from step {start} on, before it has warmed up "
                f"({warmup} steps); take a larger share, or a shorter warm-up"
            )
        if branches and branches[-1].steps == steps:
            raise ValueError(f"anneal_at: two shares of {total} steps are {steps} steps; leave one out")
        settings = {"total_steps": steps, "warmup_steps": warmup, "anneal_at": []}
        branches.append(Branch(steps, start, settings))
    return tuple(branches)


def cyclic_restarts(
    optimizer: Optimizer,
    *,
    total_steps: int,
    warmup_share: float = 0.05,
    period_share: float = 0.25,
    growth: float = 1.0,
    min_factor: float = 0.1,
) -> LambdaLR:
    """Linear warm-up, then half cosines from 1 to `min_factor`, each beginning at 1 again.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5 and section 3.

    Args:
        period_share: length of the first cosine, as a share of the run.
        growth: each cosine is so many times as long as the one before, at least 1 (T_mult).

    Raises:
        ValueError: a number is out of its range.
    """
    warmup = steps_of_warmup(total_steps, warmup_share)
    _check_share("min_factor", min_factor)
    if period_share <= 0:
        raise ValueError(f"period_share must be above 0, got {period_share}")
    if growth < 1:
        raise ValueError(f"growth must be at least 1, got {growth}")
    period = max(1.0, total_steps * period_share)

    def factor(step: int) -> float:
        if step < warmup:
            return warmup_factor(step, warmup)
        since, length = float(step - warmup), period
        while since >= length:
            since, length = since - length, length * growth
        return _half_cosine(since / length, min_factor)

    return LambdaLR(optimizer, factor)


def one_cycle(
    optimizer: Optimizer,
    *,
    total_steps: int,
    rise_share: float = 0.3,
    start_factor: float = 0.04,
    end_factor: float = 1e-5,
    shape: Literal["cos", "linear"] = "cos",
) -> OneCycleLR:
    """From `start_factor` up to 1 over `rise_share` of the run and down to `end_factor` over the rest.

    Source: Smith and Topin 2018, "Super-Convergence", by PyTorch's `OneCycleLR`. The rise is its warm-up; the
    optimizer's momentum stays as it is.

    Raises:
        ValueError: a number is out of its range.
    """
    steps_of_warmup(total_steps, rise_share)
    _check_share("start_factor", start_factor)
    _check_share("end_factor", end_factor)
    if start_factor == 0 or end_factor == 0:
        raise ValueError("start_factor and end_factor must be above 0")
    if rise_share * total_steps == 1:  # PyTorch would divide by the steps between its first and its last
        raise ValueError(f"rise_share={rise_share}: of {total_steps} steps is a single one, in which nothing rises")
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=max(2, total_steps),
        pct_start=rise_share,
        anneal_strategy=shape,
        cycle_momentum=False,
        div_factor=1 / start_factor,
        final_div_factor=start_factor / end_factor,
    )


def _after_warmup(
    optimizer: Optimizer, total_steps: int, warmup_share: float, decay: Callable[[float], float]
) -> LambdaLR:
    """`decay` takes the share of the steps after the warm-up that are done."""
    warmup = steps_of_warmup(total_steps, warmup_share)

    def factor(step: int) -> float:
        if step < warmup:
            return warmup_factor(step, warmup)
        return decay(min(1.0, (step - warmup) / max(1, total_steps - warmup)))

    return LambdaLR(optimizer, factor)


def _half_cosine(x: float, least: float) -> float:
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * x))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")
