"""The totals of an evaluation: added up batch by batch, and over the processes once all batches have been seen."""

from __future__ import annotations

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from ablab.tasks.base import IGNORED, Task, Totals

_SAMPLES = "samples"  # beside the task's own totals


class EvaluationTotals:
    """What a task's metrics are made of, summed over an evaluation, so that uneven batches change nothing.

    Args:
        task: whose `totals` are added up, for each of its subsets.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._sums: dict[int, dict[str, Tensor]] = {}  # of each of the task's subsets, in this process

    def add(self, logits: Tensor, targets: Tensor, subset: int = 0) -> None:
        """Add those of a batch, whose samples all belong to one subset."""
        totals = self._task.totals(logits, targets)
        totals[_SAMPLES] = (targets != IGNORED).flatten(1).any(1).sum(dtype=torch.float64)
        sums = self._sums.setdefault(subset, {})
        for name, value in totals.items():
            sums[name] = sums.get(name, 0) + value

    def take(self, split: str, strategy: Strategy) -> tuple[dict[str, Totals], int]:
        """Return those of each subset over all processes, with the number of samples, and begin anew."""
        # Every process has served a batch of every subset, so that all of them have the same to add up.
        subsets, names = self._task.subsets(split), list(self._sums[0])
        sums = torch.stack([self._sums[subset][name] for subset in range(len(subsets)) for name in names])
        sums = strategy.reduce(sums, reduce_op="sum").view(len(subsets), len(names))
        totals = {
            subset: dict(zip(names, row, strict=True)) for subset, row in zip(subsets, sums.tolist(), strict=True)
        }
        samples = [int(each.pop(_SAMPLES)) for each in totals.values()]
        self._sums = {}
        return totals, samples[0] if self._task.same_samples else sum(samples)
