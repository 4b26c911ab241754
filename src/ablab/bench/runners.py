"""Who takes the steps that are compared: a bare loop, and a Trainer that stands still between turns."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.model.protocols import has_penalties
from ablab.tasks.base import Batch, EvalBatch, Task
from ablab.training.build_model import build_model
from ablab.training.optimizers.groups import build_optimizer

PATIENCE_S = 600  # for a runner's turn to end


class Runner(ABC):
    """A training that stands still until it is told to go on."""

    model: nn.Module

    @abstractmethod
    def train(self, steps: int) -> float:
        """Take so many steps more; the seconds that they took.

        Raises:
            UserError: that would take too long.
        """


class BareLoop(Runner):
    """Training without a harness: what one would write by hand."""

    def __init__(self, config: RunConfig, task: Task, device: torch.device) -> None:
        self.device = device
        self.model = self.transformer = build_model(config, task).to(device)
        self.optimizer = build_optimizer(instantiate(config.options["optimizer"], _convert_="all"), self.model)
        getattr(self.optimizer, "train", lambda: None)()
        self.schedule = instantiate(config.options["schedule"], _convert_="all")(self.optimizer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.clip = config.trainer.gradient_clip_val
        self.accumulate = config.trainer.accumulate_grad_batches
        self.penalised = has_penalties(self.transformer)
        self.steps = 0
        self.task = task
        self.batches: Iterator[Batch] = iter(task.train_dataloader())

    def train(self, steps: int) -> float:
        started = now(self.device)
        for _ in range(steps):
            self.transformer.resample(self.steps)
            for _ in range(self.accumulate):
                inputs, targets = move_data_to_device(next(self.batches), self.device)
                loss = self.task.loss(self.model(inputs, targets=targets), targets)
                if self.penalised:
                    loss = loss + self.transformer.penalty()
                (loss / self.accumulate).backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.clip)
            self.optimizer.step()
            self.transformer.after_step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.steps += 1
        return now(self.device) - started


class PlainModule(LightningModule):
    """The same training as anybody would write it for Lightning."""

    def __init__(self, config: RunConfig, task: Task) -> None:
        super().__init__()
        self.model = build_model(config, task)
        self.config, self.task = config, task
        self.penalised = has_penalties(self.model)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.model.resample(self.trainer.global_step)
        inputs, targets = batch
        loss = self.task.loss(self.model(inputs, targets=targets), targets)
        self.log("train_loss", loss)
        return loss + self.model.penalty() if self.penalised else loss

    def validation_step(self, batch: EvalBatch, batch_idx: int) -> None:
        inputs, targets, *_ = batch
        self.log("val_loss", self.task.loss(self.model(inputs), targets), batch_size=len(targets))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.model.after_step()

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(instantiate(self.config.options["optimizer"], _convert_="all"), self.model)
        getattr(optimizer, "train", lambda: None)()
        schedule = instantiate(self.config.options["schedule"], _convert_="all")(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LightningRunner(Runner, Callback):
    """A Trainer's `fit`, in a thread of its own that stands still between turns; its callbacks must include this one.

    The clock stands still during evaluation, which the bare loop does not do; it runs while checkpoints are written.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.fit: Callable[[], None] = lambda: None
        self._go: queue.Queue[int] = queue.Queue()
        self._done: queue.Queue[float | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._until = 0  # the step at which the turn ends
        self._seconds = 0.0
        self._since = 0.0

    def train(self, steps: int) -> float:
        if not self._thread.is_alive():
            self._thread.start()
        self._go.put(steps)
        try:
            result = self._done.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise _too_long(steps) from None
        if isinstance(result, BaseException):
            raise result
        return result

    def end(self) -> None:
        """Wait for what follows the last step."""
        self._thread.join(timeout=PATIENCE_S)
        if self._thread.is_alive():
            raise UserError(f"the training did not end within {PATIENCE_S} seconds of its last step")
        if not self._done.empty() and isinstance(result := self._done.get(), BaseException):
            raise result

    def _work(self) -> None:
        try:
            self.fit()
        except BaseException as error:
            self._done.put(error)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        if index == 0:
            self._wait(trainer)
        elif index % trainer.accumulate_grad_batches == 0 and trainer.global_step == self._until:
            self._stop(trainer)
            self._wait(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._seconds += now(trainer.strategy.root_device) - self._since

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._since = now(trainer.strategy.root_device)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        self._done.put(self._seconds + now(trainer.strategy.root_device) - self._since)

    def _wait(self, trainer: Trainer) -> None:
        self._until = trainer.global_step + self._go.get()
        self._seconds, self._since = 0.0, now(trainer.strategy.root_device)


def _too_long(steps: int) -> UserError:
    return UserError(f"--steps {steps}: took more than {PATIENCE_S} seconds; give fewer, and more --rounds")


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
