"""The axis `objective` at work: how well tokens further ahead are told, and how large logits are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ablab.model.mechanism import Watcher, drawn, projected
from ablab.model.objective.base import IGNORED, Asked, Objective, log_z
from ablab.model.objective.multi_token import nats
from ablab.model.ranks import sum_over_ranks

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

LARGE = 30.0  # standard deviation of the logits that an objective is asked about


class ObjectiveWatcher(Watcher):
    """Asks for the tokens further ahead, which an evaluation by itself never does."""

    def __init__(self, module: Objective, *, device: torch.device) -> None:
        super().__init__("objective", None, module)
        each = [f"{name}_depth_{k}" for k in range(1, module.reach + 1) for name in ("loss", "accuracy")]
        self._names = ["log_z", *each, *(["accepted_length"] if module.reach else [])]
        self._sums = torch.zeros(len(self._names), 2, dtype=torch.float64, device=device)  # and how many each is of

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        assert isinstance(module, Objective)
        asked: Asked = args[0]
        found = [_sum(log_z(asked.logits).square(), asked.targets != IGNORED)]
        told = list(module.ahead(asked))
        for logits, targets in told:
            counted = targets != IGNORED
            found += [_sum(nats(logits, targets), counted), _sum(logits.argmax(-1) == targets, counted)]
        if told:
            found.append(_sum(*_accepted(asked.logits, told)))
        self._sums += torch.stack(found)

    def metrics(self) -> dict[str, float]:
        """`log_z` is the root mean square of the logarithm of what the softmax divides by.

        Of each depth its loss in nats and its accuracy. `accepted_length`: had the depths drafted, so many tokens in a
        row would have been the main head's own choices on average, its first one included.
        """
        sums = zip(self._names, sum_over_ranks(self._sums.clone()).tolist(), strict=True)
        means = {name: total / count for name, (total, count) in sums if count}
        if "log_z" in means:
            means["log_z"] = math.sqrt(means["log_z"])
        return super().metrics() | means


def _sum(values: Tensor, counted: Tensor) -> Tensor:
    """The sum of what counts, and how many that is, (2,)."""
    return torch.stack([torch.where(counted, values, 0).sum(dtype=torch.float64), counted.sum().double()])


def _accepted(logits: Tensor, told: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """How many tokens are accepted at each position, and the positions where all depths have a target that counts."""
    main, length = logits.argmax(-1), told[-1][1].shape[1]
    agrees = [(own.argmax(-1) == main[:, k:])[:, :length] for k, (own, _) in enumerate(told, 1)]
    counted = [(targets != IGNORED)[:, :length] for _, targets in told]
    return 1 + torch.stack(agrees).long().cumprod(0).sum(0), torch.stack(counted).all(0)


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """The model's objective."""
    yield ObjectiveWatcher(model.objective, device=model.head.weight.device)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """Projections of the logits that are given in place of large ones, and what is asked for in training."""
    logits = LARGE * drawn("logits", (64, 16), model.head.weight)
    return {"": [*projected(model.objective.bound(logits)), *model.objective.asks()]}
