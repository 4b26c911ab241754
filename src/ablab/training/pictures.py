"""What is to be looked at: pictures for the loggers that show them, and files in the run's folder for the report."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Trainer
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from ablab.model.mechanism import MechanismProbe
from ablab.results.store import PICTURE_FOLDER
from ablab.tasks.base import Task
from ablab.training.loggers import TakesPictures
from ablab.training.module import TrainingModule

_MOST_PIXELS = 256
_GREY_STEP = 17  # 16 greys


def painters(trainer: Trainer) -> list[TakesPictures]:
    """The loggers that are to show pictures: all processes see the same split, and the first one shows it."""
    if not trainer.is_global_zero:
        return []
    return [logger for logger in trainer.loggers if isinstance(logger, TakesPictures) and logger.pictures]


@torch.no_grad()
def leave_pictures(trainer: Trainer, module: TrainingModule, task: Task, folder: Path) -> list[str]:
    """What the task makes with the trained model, and where each of its layers looks, as PNG files below `folder`.

    Returns:
        The files' names there.
    """
    if not trainer.is_global_zero:
        return []
    training = module.training
    module.to(trainer.strategy.root_device).eval()
    made = task.pictures(lambda inputs: module(trainer.strategy.batch_to_device(inputs)).cpu())
    looked = _attention(trainer, module, task)
    module.train(training)
    names = []
    for name, picture in made.items():
        for painter in painters(trainer):
            painter.log_picture(name, picture, trainer.global_step)
        names.append(f"{PICTURE_FOLDER}/{name}.png")
        save_picture(folder / names[-1], picture)
    for name, picture in looked.items():  # loggers have them of every evaluation
        names.append(f"{PICTURE_FOLDER}/{name.replace('/', '_')}.png")
        save_picture(folder / names[-1], _small(picture))
    return names


def _attention(trainer: Trainer, module: TrainingModule, task: Task) -> dict[str, Tensor]:
    """Where each layer looks on the first validation sample, as `MechanismProbe.pictures` draws it."""
    loaders = task.val_dataloader()
    batch = next(iter(loaders[0] if isinstance(loaders, list) else loaders))
    probe = MechanismProbe(module.model, pictured=True)
    probe.attach()
    try:
        module(trainer.strategy.batch_to_device(batch[0]))
    finally:
        probe.detach()
    return probe.pictures()


def _small(picture: Tensor) -> Tensor:
    """At most `_MOST_PIXELS` each way, the brightest pixel of each patch, in few greys: a tenth of the bytes."""
    size = [min(side, _MOST_PIXELS) for side in picture.shape]
    patches = adaptive_max_pool2d(picture[None].float(), size)[0]
    return ((patches / _GREY_STEP).floor() * _GREY_STEP).to(torch.uint8)


def save_picture(path: Path, picture: Tensor) -> None:
    """A grey picture, uint8 (height, width), as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.cpu().numpy(), mode="L").save(path, optimize=True)
