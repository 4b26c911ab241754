"""Checkpoints that a crash cannot damage."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

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


def checkpoint_callbacks(folder: Path, primary: Metric) -> list[Checkpoint]:
    """`best.ckpt`, by the primary metric, and `last.ckpt`, after every evaluation."""
    checkpoints = folder / CHECKPOINT_FOLDER
    best = ModelCheckpoint(
        dirpath=checkpoints,
        filename="best",
        monitor=primary.name,
        mode=primary.direction,
        enable_version_counter=False,
    )
    # Without a monitor each save replaces the one before. It is saved on `validation_end` like the best one.
    last = ModelCheckpoint(dirpath=checkpoints, filename="last", monitor=None, enable_version_counter=False)
    return [best, last]
