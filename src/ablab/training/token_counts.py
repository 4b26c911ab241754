"""How evenly the processes shared the tokens, and how much of what they computed was padding."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.optimizer import StateDict

from ablab.model.ranks import sum_over_ranks
from ablab.tasks.base import Inputs, Task


class TokenCounts(Callback):
    """Counts the tokens of every training step in each process, of tasks whose sequences hold padding.

    Over all steps so far, and the same in every process:

    * `balance/imbalance`: the most real tokens of any process over the mean of all, less 1; the mean over steps
    * `balance/padding_share`: of all that was computed, the share that was padding
    * `balance/idle_share`: the share of the processes' time in which they would wait for the one that computes most, if
      time went with the tokens that are computed and every step ended together (as it does not with local updates)

    What a process computes is its sequences times the longest that it was given. Counts stay on the device until they
    are asked for, at an evaluation or a checkpoint, so that no step waits for them.

    Args:
        accumulate: batches to an optimizer step.
    """

    def __init__(self, accumulate: int = 1) -> None:
        self._accumulate = accumulate
        self._real: list[Tensor] = []  # tokens of each batch of this process, since they were added up
        self._computed: list[int] = []  # the same with padding
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        task = trainer.datamodule  # type: ignore[attr-defined]
        if task.padding is None and not task.modalities:
            return
        there = _there(task, batch[0])
        self._real.append(there.sum())
        self._computed.append(there.numel())

    def metrics(self) -> dict[str, float]:
        """By "balance/name"; empty before the first step. Every process must call it."""
        self._add_up()
        steps, imbalance, real, computed, mean, most = self._sums.tolist()
        if not steps:
            return {}
        return {
            "balance/imbalance": imbalance / steps,
            "balance/padding_share": 1 - real / computed,
            "balance/idle_share": 1 - mean / most,
        }

    def state_dict(self) -> StateDict:
        self._add_up()
        return {"sums": self._sums.clone()}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._sums = state_dict["sums"].cpu()

    def _add_up(self) -> None:
        if self._real:
            real = torch.stack(self._real)
            own = torch.stack([real, torch.tensor(self._computed).to(real)], dim=-1)
            steps = own.unflatten(0, (-1, self._accumulate)).sum(1)
            self._sums += _sums(_of_all_ranks(steps).to("cpu", torch.float64))
            self._real, self._computed = [], []


_SUMS = ("steps", "imbalance", "real", "computed", "mean_computed", "most_computed")  # what is carried on


def _there(task: Task, inputs: Inputs) -> Tensor:
    """bool (B, T): where there is a token."""
    return inputs.ne(task.padding) if isinstance(inputs, Tensor) else ~inputs["padding"]  # type: ignore[arg-type]


def _of_all_ranks(own: Tensor) -> Tensor:
    """`own`, of every process: (processes, *own.shape)."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, processes = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if several else (0, 1)
    each = own.new_zeros(processes, *own.shape)
    each[rank] = own
    return sum_over_ranks(each)


def _sums(counts: Tensor) -> Tensor:
    """What `_SUMS` names, over the steps, from real tokens and all that were computed: (processes, steps, 2)."""
    real, computed = counts.unbind(-1)
    imbalance = real.amax(0) / real.mean(0) - 1
    steps = imbalance.new_tensor(len(imbalance))
    return torch.stack(
        [steps, imbalance.sum(), real.sum(), computed.sum(), computed.mean(0).sum(), computed.amax(0).sum()]
    )
