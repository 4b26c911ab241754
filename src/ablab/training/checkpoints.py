"""When checkpoints are written, and what they hold so that a resumed run goes on as if nothing had happened."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.callbacks import Checkpoint
from torch.optim.optimizer import StateDict

from ablab.errors import Interrupted
from ablab.model.ranks import of_all_ranks
from ablab.results.record import Metric
from ablab.results.store import CHECKPOINT_FOLDER
from ablab.training.callbacks import ends_step
from ablab.training.checkpoint_files import OWN, name_best
from ablab.training.checkpoint_list import LAST
from ablab.training.strategies.base import ALONE, Parallel, parallel


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt`, written after every evaluation, and `best.ckpt`, the one with the best primary metric.

    Each checkpoint is written once: the best one is another name for the same file until the next is written.

    Args:
        every: steps after which several processes ask each other whether they are to stop.
        stop: whether the run was asked to stop. It then writes a checkpoint as soon as it can, and raises
            `Interrupted`. Several processes agree on it, since none can go on without the others.
    """

    def __init__(self, folder: Path, primary: Metric, stop: Callable[[], bool] = lambda: False, every: int = 1) -> None:
        self._folder = folder / CHECKPOINT_FOLDER
        self._metric = primary.name
        self._sign = 1.0 if primary.direction == "min" else -1.0
        self._best = math.inf
        self._best_step = -1
        self._stop = stop
        self._every = every
        self._stopped = False  # whether the run had been stopped early, by a callback or its time, when it was written

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        # Several processes agree only now and then, since that takes a message.
        if not ends_step(trainer, batch_index) or (trainer.global_step % self._every and trainer.world_size > 1):
            return
        # A checkpoint of this moment would be taken for one behind the evaluation that is due now.
        if (batch_index + 1) % int(trainer.val_check_batch or 1) and self._is_to_stop(trainer):
            self._write(trainer)
            raise Interrupted

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        value = self._sign * float(trainer.callback_metrics[self._metric])
        if value < self._best:  # before it is saved with the rest
            self._best, self._best_step = value, trainer.global_step
        self._write(trainer)
        self._name_best(trainer)
        if trainer.global_step < int(trainer.max_steps) and self._is_to_stop(trainer):
            raise Interrupted

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not (self._folder / LAST).exists():  # what it goes on from is another run's, and so is the best so far
            self._best, self._best_step = math.inf, -1
        elif self._stopped:
            trainer.should_stop = True  # it has no step left to take
        if trainer.global_step:  # the run may have been killed after the checkpoint, before it was named the best
            self._name_best(trainer, checked=True)

    def state_dict(self) -> StateDict:
        return {"best": self._best, "best_step": self._best_step, "stopped": self._stopped}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._best, self._best_step = state_dict["best"], int(state_dict["best_step"])
        self._stopped = state_dict["stopped"]

    def _write(self, trainer: Trainer) -> None:
        self._stopped = trainer.should_stop
        trainer.save_checkpoint(self._folder / LAST, storage_options=OWN)

    def _name_best(self, trainer: Trainer, checked: bool = False) -> None:
        if trainer.is_global_zero and trainer.global_step == self._best_step:
            name_best(self._folder, self._best_step, checked)

    def _is_to_stop(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._stop(), all=False)


class Randomness(Callback):
    """Carries the generators that no pass of training seeds over a checkpoint, for every process."""

    def __init__(self) -> None:
        self._loaded: list[StateDict] | None = None

    def state_dict(self) -> StateDict:
        return {"processes": of_all_ranks(generators())}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._loaded = state_dict["processes"]

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        # Not before: what Lightning does when training starts draws numbers, too.
        self._go_on(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._go_on(trainer)  # of a run that had nothing left to train

    def _go_on(self, trainer: Trainer) -> None:
        # Another number of processes cannot go on where these were: each then has its generators as they were seeded.
        if self._loaded is not None and len(self._loaded) == trainer.world_size:
            set_generators(self._loaded[trainer.global_rank])
        self._loaded = None


class ParallelState(Callback):
    """Carries what the strategy remembers over a checkpoint: once what all processes share, and what each has."""

    def __init__(self) -> None:
        self._strategy: Parallel = ALONE
        self._loaded: StateDict | None = None

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._strategy = parallel(trainer.strategy)

    def state_dict(self) -> StateDict:
        shared, own = (
            move_data_to_device(state, "cpu") for state in (self._strategy.shared_state(), self._strategy.own_state())
        )
        each = of_all_ranks(own) if own else []  # if one process has none, no other has
        return {"strategy": type(self._strategy).__qualname__, "shared": shared, "processes": each}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._loaded = state_dict

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:  # after the optimizers have theirs
        # What another strategy remembered is of no use to this one: it goes on from the weights alone.
        if self._loaded is not None and self._loaded["strategy"] == type(self._strategy).__qualname__:
            self._strategy.load_shared_state(move_data_to_device(self._loaded["shared"], trainer.strategy.root_device))
            if self._loaded["processes"]:
                self._strategy.load_own_state(self._loaded["processes"], trainer.global_rank)
        self._loaded = None


def generators() -> StateDict:
    """The states of this process's global generators, in types that `torch.load(weights_only=True)` reads."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state: StateDict = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_generators(state: StateDict) -> None:
    """Go on where `generators` was called."""
    torch.set_rng_state(state["torch"].cpu())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
