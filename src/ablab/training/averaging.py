"""Averages of the weights: Lightning's callbacks, mended in what a run and its checkpoints need of them."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks
from torch import Tensor
from torch.optim.optimizer import StateDict


class WeightAveraging(callbacks.WeightAveraging):
    """The mean of the weights of all steps: evaluated, kept in checkpoints, and left in the model in the end.

    As Lightning's `WeightAveraging`, but for this. Until the first step that counts, the weights that are trained are
    evaluated and kept; Lightning's are those before the first step. A checkpoint that is written when training has
    ended has the trained weights, too, from which another run goes on. Whole numbers, as tables of positions, are
    copied: their average, cut off, is another table.

    Args:
        device: on which the average lies; None: where the model is built, on the CPU.
    """

    def __init__(self, *, device: torch.device | str | int | None = None) -> None:
        super().__init__(device=device, use_buffers=True, avg_fn=self._average)
        self._trained: StateDict | None = None  # when training has ended, and the model has the average

    def average(self, average: Tensor, current: Tensor, counted: Tensor | int) -> Tensor:
        """The average of `counted` steps and one more. Of what never changes it is that, to the last bit."""
        return average + (current - average) / (counted + 1)

    def _average(self, average: Tensor, current: Tensor, counted: Tensor | int) -> Tensor:
        counts = average.is_floating_point() or average.is_complex()
        return self.average(average, current, counted) if counts else current

    @property
    def has_begun(self) -> bool:
        """Whether a step has been counted."""
        return bool(self.state_dict()["latest_update_step"])

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_begun:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_begun:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_begun:
            self._trained = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._trained is not None:
            checkpoint["current_model_state"] = self._trained
        if not self.has_begun:
            checkpoint["state_dict"] = dict(checkpoint["current_model_state"])  # apart, as a fork writes to both


class EMAWeightAveraging(WeightAveraging):
    """An exponential moving average of the weights, average <- decay average + (1 - decay) weights.

    As Lightning's `EMAWeightAveraging`, with what `WeightAveraging` mends. It begins with the weights of the first
    step that counts, and not at zero.

    Args:
        decay: 0 to 1.
        update_every_n_steps: between two that count, of which the first step of all is one.
        update_starting_at_step: steps that are left out before the first that counts; None: none.
        device: as above.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        *,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        device: torch.device | str | int | None = None,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: must be at least 0, and below 1")
        if update_every_n_steps < 1:
            raise ValueError(f"update_every_n_steps={update_every_n_steps}: must be 1 or more")
        super().__init__(device=device)
        self.decay = decay
        self.every = update_every_n_steps
        self.start = update_starting_at_step or 0

    def average(self, average: Tensor, current: Tensor, counted: Tensor | int) -> Tensor:
        return torch.lerp(average, current, 1 - self.decay)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx >= self.start and step_idx % self.every == 0
