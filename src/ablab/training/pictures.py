"""What is to be looked at: pictures for the loggers that show them, and files in the run's folder for the report."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Trainer
from PIL import Image
from torch import Tensor

from ablab.results.store import PICTURE_FOLDER
from ablab.tasks.base import Task
from ablab.training.loggers import TakesPictures
from ablab.training.module import TrainingModule


def painters(trainer: Trainer) -> list[TakesPictures]:
    """The loggers that are to show pictures: all processes see the same split, and the first one shows it."""
    if not trainer.is_global_zero:
        return []
    return [logger for logger in trainer.loggers if isinstance(logger, TakesPictures) and logger.pictures]


@torch.no_grad()
def leave_pictures(trainer: Trainer, module: TrainingModule, task: Task, folder: Path) -> list[str]:
    """What the task makes with the trained model, as PNG files below `folder`; the files' names there."""
    if not trainer.is_global_zero:
        return []
    training = module.training
    module.to(trainer.strategy.root_device).eval()
    made = task.pictures(lambda inputs: module(trainer.strategy.batch_to_device(inputs)).cpu())
    module.train(training)
    names = []
    for name, picture in made.items():
        for painter in painters(trainer):
            painter.log_picture(name, picture, trainer.global_step)
        names.append(f"{PICTURE_FOLDER}/{name}.png")
        save_picture(folder / names[-1], picture)
    return names


def save_picture(path: Path, picture: Tensor) -> None:
    """A grey picture, uint8 (height, width), as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.cpu().numpy(), mode="L").save(path, optimize=True)
