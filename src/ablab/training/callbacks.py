"""What watches a training run: its learning curves, its divergence, its components' mechanisms, its progress."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.optimizer import StateDict

from ablab.errors import Diverged
from ablab.model.mechanism import MechanismProbe
from ablab.results.record import Metric
from ablab.tasks.base import IGNORED
from ablab.training.module import TrainingModule
from ablab.training.pictures import painters
from ablab.training.strategies.base import parallel

# Called with (step, of how many, what to show beside it).
Progress = Callable[[int, int, str], None]


class Curves(Callback):
    """Logs `train_loss` and `learning_rate`, and ends the run when the loss is no longer a finite number.

    The loss is read at every `log_every_n_steps`-th step only, since reading it waits for the device. A loss that
    became NaN stays NaN, so at most that many steps are lost. Under several processes the mean over them is logged.
    """

    def __init__(self, log_every_n_steps: int) -> None:
        self._every = log_every_n_steps

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        step = trainer.global_step
        if step % self._every or not ends_step(trainer, batch_index):
            return
        assert isinstance(module, TrainingModule)
        value = float(trainer.strategy.reduce(module.train_loss, reduce_op="mean"))
        learning_rate = module.learning_rates[-1]  # the step's own; the optimizer holds that of the next
        for logger in trainer.loggers:
            logger.log_metrics({"train_loss": value, "learning_rate": learning_rate}, step=step)
        module.log("train_loss", value, prog_bar=True, logger=False)  # for whoever monitors it
        if not math.isfinite(value):
            raise Diverged("train_loss", value, step)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        for name, value in trainer.callback_metrics.items():
            if name == "val_loss" and not math.isfinite(value):
                raise Diverged(name, float(value), trainer.global_step)


class LateLoss(Callback):
    """Gives the callbacks after it the loss of a batch where the strategy knows it only after the pass back."""

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if (loss := parallel(trainer.strategy).batch_loss) is not None:
            outputs["loss"].copy_(loss)


class Mechanisms(Callback):
    """Measures, over each evaluation, whether the components do what they claim (a swap must take effect).

    `values` holds the metrics of the last evaluation, by "axis/name"; they are logged under the same names. Loggers
    that take pictures are given one of each layer's attention, always on the same sample: the first of the split.

    Args:
        others: give metrics of their own by "axis/name", from what they saw of the training.
    """

    def __init__(self, *others: Callable[[], dict[str, float]]) -> None:
        self._others = others
        self.values: dict[str, float] = {}
        self.failures: dict[str, str] = {}  # of the last evaluation: axis -> why it was not watched to the end
        self._probe: MechanismProbe | None = None

    def state_dict(self) -> StateDict:
        return {"values": self.values}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.values = state_dict["values"]

    def on_validation_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        pictured = trainer.strategy.broadcast(bool(painters(trainer)))  # drawn together, where heads are shared out
        self._probe = MechanismProbe(module.model, pictured=pictured)
        self._probe.attach()

    def on_validation_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *place: int) -> None:
        if self._probe is None or trainer.world_size == 1:
            return
        if (batch[1] == IGNORED).all():  # of a process that has no sample left
            self._probe.detach()
        else:
            self._probe.look()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:  # after the module has its metrics
        if self._probe is None:
            return
        assert isinstance(module, TrainingModule)
        with parallel(trainer.strategy).unsharded(module.model):
            self.values = {**self._probe.metrics(), **_schedule(trainer, module)}
        if module.update_ratio is not None:
            self.values["optimizer/update_ratio"] = float(module.update_ratio)
        for other in self._others:
            self.values |= other()
        pictures = self._probe.pictures()
        self.failures = self._probe.failures
        self._probe.detach()
        self._probe = None
        for logger in trainer.loggers:
            logger.log_metrics(self.values, step=trainer.global_step)
        for painter in painters(trainer):
            for name, picture in pictures.items():
                painter.log_picture(name, picture, trainer.global_step)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if self._probe is not None:
            self._probe.detach()
            self._probe = None


def _schedule(trainer: Trainer, module: TrainingModule) -> dict[str, float]:
    """The trace of the learning rate in four numbers, what the schedule says of itself, and how soon it got there.

    `steps_to_target` is missing until an evaluation has reached the task's target.
    """
    values: dict[str, float] = {}
    rates = module.learning_rates
    if module.steps_to_target is not None:
        values["steps_to_target"] = float(module.steps_to_target)
    if rates:
        values["learning_rate_min"] = min(rates)
        values["learning_rate_max"] = max(rates)
        values["learning_rate_mean"] = sum(rates) / len(rates)
        values["learning_rate_last"] = rates[-1]
    for config in trainer.lr_scheduler_configs:
        describe = getattr(config.scheduler, "mechanism", None)
        if describe is not None:
            values.update(describe())
    return {f"schedule/{name}": value for name, value in values.items() if math.isfinite(value)}


class ReportProgress(Callback):
    """Tells whoever started the run how far it is, a few times a second."""

    INTERVAL_S = 0.25

    def __init__(self, report: Progress, metric: Metric) -> None:
        self._report = report
        self._metric = metric
        self._last = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        now = time.monotonic()
        if now - self._last >= self.INTERVAL_S:
            self._last = now
            value: Tensor | None = trainer.callback_metrics.get(self._metric.name)
            shown = "" if value is None else f"{self._metric.name} {float(value):.4f}"
            self._report(trainer.global_step, int(trainer.max_steps), shown)


class Heartbeat(Callback):
    """Says that this process goes on: at every optimizer step, every batch of an evaluation and between the stages."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        beat()  # the task has its data

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._beat()

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._beat()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._beat()

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        self._beat()

    def on_validation_batch_end(self, *args: Any) -> None:
        self._beat()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._beat()

    def on_test_batch_end(self, *args: Any) -> None:
        self._beat()

    def on_save_checkpoint(self, *args: Any) -> None:
        self._beat()


def ends_step(trainer: Trainer, batch_index: int) -> bool:
    """Whether a batch is the last of those that are accumulated for an optimizer step."""
    return (batch_index + 1) % trainer.accumulate_grad_batches == 0


def seed_everything_else(seed: int, rank: int) -> None:
    """Seed the generators that are left once parameters, data and passes have theirs, differently on each process.

    Nothing here draws from Python's and NumPy's global ones, but somebody's component may.
    """
    own = (seed * 1_000_003 + rank) % 2**63
    torch.manual_seed(own)
    random.seed(own)
    np.random.seed(own % 2**32)
