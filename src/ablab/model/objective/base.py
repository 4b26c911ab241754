"""The contract of the axis `objective`, and the option that asks for the next token alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ablab.model.block import Block
from ablab.model.context import LayerContext
from ablab.model.norm import Norm
from ablab.model.ranks import sum_over_data
from ablab.model.spec import LayerSpec

IGNORED = -100  # a target without a loss, as torch's cross entropy has it by default and tasks write it


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A pass through the model whose targets are known.

    Attributes:
        hidden: what the head reads, (B, T, d_model).
        logits: what it makes of it, (B, T, V).
        targets: (B, T) int64.
        context: that of the layers, with the mask and the tokens.
        embed: the model's own embedding, without any position: tokens (B, T) -> (B, T, d_model).
        head: the model's own head: (B, T, d_model) -> (B, T, V).
    """

    hidden: Tensor
    logits: Tensor
    targets: Tensor
    context: LayerContext
    embed: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]


class Objective(nn.Module):
    """The task's own loss, of the next token where that is what it asks for. Options add to it, by `penalty`.

    Args:
        block: makes a block like those of the model.
        norm: makes a norm like those of the model.
        z_loss: times the mean of (log sum exp of a token's logits)^2 is added to the training loss (Chowdhery et al.
            2022, PaLM, arXiv 2204.02311, section 5; of routers: Zoph et al. 2022, ST-MoE, arXiv 2202.08906, section
            3.2). Targets that are ignored do not count. 0: nothing is.
        softcap: c: logits are c tanh(logits / c), in training and in evaluation (Gemma Team 2024, Gemma 2, arXiv
            2408.00118, section 2). None: as they are.

    Attributes:
        reach: how many tokens behind the next one it asks for.

    Raises:
        ValueError: a value is out of its range.
    """

    reach = 0

    def __init__(
        self,
        spec: LayerSpec,
        *,
        block: Callable[[LayerSpec], Block],
        norm: Callable[[LayerSpec], Norm],
        z_loss: float = 0.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= z_loss < math.inf:
            raise ValueError(f"objective.z_loss must be at least 0, got {z_loss}")
        if softcap is not None and not 0 < softcap < math.inf:
            raise ValueError(f"objective.softcap must be above 0, or null, got {softcap}")
        self.z_loss = ZLoss(z_loss) if z_loss else None
        self.softcap = softcap

    def bound(self, logits: Tensor) -> Tensor:
        """The logits, of any shape, that are given in place of these."""
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def forward(self, asked: Asked) -> None:
        """See a pass. Only in training does that take any computation."""
        if self.z_loss is not None and self.training:
            self.z_loss(asked.logits, asked.targets)

    def ahead(self, asked: Asked) -> Iterator[tuple[Tensor, Tensor]]:
        """For each token further ahead that is asked for: logits (B, S, V), and targets (B, S) of positions 0..S-1."""
        yield from ()

    def asks(self) -> list[float]:
        """What it asks for in training, as numbers: equal for objectives of equal function."""
        return [0.0 if self.z_loss is None else self.z_loss.weight, 0.0, 0.0, 0.0, 0.0]


class ZLoss(nn.Module):
    """`weight` times the mean of (log sum exp)^2 over the targets that count, over all processes."""

    penalty_of_pass = True

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self._asked: Tensor | None = None  # of the last pass

    def forward(self, logits: Tensor, targets: Tensor) -> None:
        """Remember what is asked for, for `penalty`: logits (B, T, V), targets (B, T)."""
        counted = targets != IGNORED
        sums = torch.where(counted, log_z(logits).square(), 0.0).sum()
        self._asked = self.weight * mean_over_data(sums[None], counted.sum()[None])[0]

    def penalty(self) -> Tensor:
        """What is added to the training loss, of the last pass."""
        asked, self._asked = self._asked, None  # lets go of the graph
        assert asked is not None, "asked for before any pass with targets"
        return asked


def log_z(logits: Tensor) -> Tensor:
    """The logarithm of what a softmax divides by, (..., V) -> (...), in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(-1)


def mean_over_data(sums: Tensor, counts: Tensor) -> Tensor:
    """Sums (N,) over so many terms, as shares whose mean over the processes is that over the terms of all of them.

    Gradients are averaged over the processes, each of which may have more terms or fewer. 0 where there are none.
    """
    whole = sum_over_data(torch.cat([counts.double(), counts.new_ones(1).double()]))
    return sums * (whole[-1] / whole[:-1].clamp(min=1)).to(sums.dtype)
