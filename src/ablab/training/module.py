"""Lightning's view of a model and its task. It holds no training logic of its own beyond joining them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ablab.model.transformer import Transformer
from ablab.tasks.base import Task
from ablab.training.optimizers import build_optimizer

Batch = tuple[Tensor, Tensor]


class TrainingModule(LightningModule):
    """A model that learns a task.

    Evaluation adds up the task's totals over all batches and processes and turns them into metrics once, so that a
    shorter last batch or an uneven share of the samples changes nothing.
    """

    def __init__(
        self,
        model: Transformer,
        task: Task,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[Optimizer], LRScheduler],
    ) -> None:
        super().__init__()
        self.model = model
        self._task = task
        self._optimizer = optimizer
        self._schedule = schedule
        self._totals: dict[str, Tensor] = {}
        self.evaluated_at: int | None = None  # the step of the last validation

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, vocabulary) for tokens (B, T)."""
        return self.model(tokens)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        inputs, targets = batch
        return self._task.loss(self.model(inputs), targets)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._add(batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._add(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_totals("val")
        self.evaluated_at = self.trainer.global_step

    def on_test_epoch_end(self) -> None:
        self._log_totals("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = build_optimizer(self._optimizer, self.model)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._schedule(optimizer), "interval": "step"},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()

    def _add(self, batch: Batch) -> None:
        inputs, targets = batch
        for name, value in self._task.totals(self.model(inputs), targets).items():
            self._totals[name] = self._totals.get(name, 0) + value

    def _log_totals(self, split: str) -> None:
        names = list(self._totals)
        totals = torch.stack([self._totals[name] for name in names])
        totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        metrics = self._task.metrics(dict(zip(names, totals.tolist(), strict=True)))
        self._totals = {}
        # Every process computed the same figures: nothing is left for Lightning to synchronise.
        self.log_dict({f"{split}_{name}": value for name, value in metrics.items()}, rank_zero_only=False)
