"""Checkpoints that a crash cannot damage."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from ablab.results.record import Metric
from ablab.results.store import CHECKPOINT_FOLDER


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk and renames: the old checkpoint stays until the new one is whole.

    Lightning's own writes go through the system's temporary folder, from where a move to another file system is not
    atomic.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt`, written after every evaluation, and `best.ckpt`, the one with the best primary metric.

    Each checkpoint is written once: the best one is another name for the same file until the next is written.
    """

    def __init__(self, folder: Path, primary: Metric) -> None:
        self._folder = folder / CHECKPOINT_FOLDER
        self._metric = primary.name
        self._sign = 1.0 if primary.direction == "min" else -1.0
        self._best = math.inf

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        value = self._sign * float(trainer.callback_metrics[self._metric])
        better = value < self._best
        self._best = min(self._best, value)  # before it is saved with the rest
        trainer.save_checkpoint(self._folder / "last.ckpt")
        if better and trainer.is_global_zero:
            link = self._folder / ".best.ckpt"
            link.unlink(missing_ok=True)
            try:
                link.hardlink_to(self._folder / "last.ckpt")
            except OSError:  # a file system without hard links
                shutil.copyfile(self._folder / "last.ckpt", link)
            link.replace(self._folder / "best.ckpt")

    def state_dict(self) -> dict[str, float]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self._best = state_dict["best"]
