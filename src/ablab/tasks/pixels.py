"""Images as sequences of their pixels, row by row: name what is shown, or predict each pixel from those before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import StateDict

from ablab.errors import UserError
from ablab.results.record import Metric
from ablab.tasks.answers import SampledTask
from ablab.tasks.base import Batch, Totals
from ablab.tasks.batches import Fetch, Rows
from ablab.tasks.corpus import checked_fractions
from ablab.tasks.images import Images, load_images
from ablab.tasks.pixel_objectives import OBJECTIVES, Objective


class Pixels(SampledTask):
    """What an image shows, or its pixels one by one. Tokens are grey levels; images are read whole, row by row.

    The objectives are those of pixel-by-pixel classification (Le et al. 2015, "A simple way to initialize recurrent
    networks", section 4.2; Tay et al. 2021, "Long Range Arena", section 2.2.4) and of autoregressive generation (van
    den Oord et al. 2016, "Pixel recurrent neural networks", section 2); see `pixel_objectives`.

    Args:
        objective: "classify" or "generate".
        path: a folder of images in MNIST's format; None: scikit-learn's digits; see `load_images`.
        levels: grey levels, onto which those of the images are mapped in steps of equal width; None: all. Which image
            is in which split does not depend on it.
        val_fraction, test_fraction: expected shares of the images; the latter may be 0. A folder's own test set stays
            the test split, whatever `test_fraction` says.
        eval_samples: greatest number of images of a split to evaluate on, spread evenly over it; None for all.
        target: of the validation accuracy, or of the validation loss in nats per pixel; None: no target.
        (the others): as `AnswerTask` says.

    Raises:
        ValueError: a number is out of range, or the objective is unknown.
    """

    _objective: Objective  # known with the size of the images

    def __init__(
        self,
        *,
        batch_size: int,
        seed: int,
        objective: Literal["classify", "generate"] = "classify",
        path: str | None = None,
        levels: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        eval_batch_size: int = 64,
        eval_samples: int | None = None,
        workers: int = 0,
        target: float | None = None,
    ) -> None:
        super().__init__(
            seq_len=1,  # until the size of the images is known
            batch_size=batch_size,
            seed=seed,
            eval_batch_size=eval_batch_size,
            workers=workers,
            target=target,
        )
        if objective not in OBJECTIVES:
            raise ValueError(f"task.objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        for name, value, least in (("levels", levels, 2), ("eval_samples", eval_samples, 1)):
            if value is not None and value < least:
                raise ValueError(f"task.{name} must be at least {least}, or null for all, got {value}")
        self.path, self.levels, self.eval_samples = path, levels, eval_samples
        self.fractions = checked_fractions(val_fraction, test_fraction)
        self._kind = OBJECTIVES[objective]
        self.causal, self.pooled = self._kind.causal, self._kind.pooled
        self.primary = Metric(name=f"val_{self._kind.metric}", split="val", direction=self._kind.direction)
        self._splits: dict[str, Images] = {}
        self._size = (0, 0)  # of an image: rows, columns

    def setup(self, stage: str | None = None) -> None:
        """Read the images. A second call does nothing.

        Raises:
            UserError: a file is missing or damaged, or a split gets no image.
            ValueError: the images have fewer levels than are asked for.
        """
        if self._splits:
            return
        splits, available, self.corpus = load_images(self.path, *self.fractions)
        levels = self.levels or available
        if levels > available:
            raise ValueError(f"task.levels={levels}: these images have {available}; give at most as many, or null")
        height, width = splits["train"].pixels.shape[1:]
        self._adopt(height, width, levels)
        self._splits = {name: _quantised(images, available, levels) for name, images in splits.items()}

    @property
    def oracle(self) -> dict[str, float]:
        """`chance`; to generate also `position_histogram`, what is to be had without any other pixel."""
        train, val = self._images("train"), self._evaluated("val")
        return self._objective.oracle(train, val)

    def training(self) -> tuple[Fetch, int]:
        return self._fetching(self._images("train"))

    def evaluation(self, split: str) -> list[tuple[Fetch, int]]:
        self.setup()
        return [self._fetching(self._evaluated(split))] if split in self._splits else []

    def metrics(self, totals: Totals) -> dict[str, float]:
        """As the objective says: `loss` and `accuracy`; to generate also `bits_per_dim`, each of pixels."""
        return self._objective.metrics(super().metrics(totals))

    def pictures(self, model: Callable[[Any], Tensor]) -> dict[str, Tensor]:
        return self._objective.pictures(model, self._evaluated("val"), self.seed)

    def state_dict(self) -> StateDict:
        """The size of the images, which a checkpoint needs to be of use without them."""
        self.setup()
        height, width = self._size
        return {"height": height, "width": width, "levels": self._objective.levels}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._adopt(state_dict["height"], state_dict["width"], state_dict["levels"])

    def _adopt(self, height: int, width: int, levels: int) -> None:
        known = (*self._size, self._objective.levels) if self._size != (0, 0) else (height, width, levels)
        if known != (height, width, levels):
            raise UserError(
                "the checkpoint's images have another size or other levels than those at hand: use the images that "
                "the checkpoint was trained on"
            )
        self._size, self.seq_len = (height, width), height * width
        self._objective = self._kind(levels)
        self.vocab_size, self.n_outputs = self._objective.vocab_size, self._objective.n_outputs

    def _images(self, split: str) -> Images:
        self.setup()
        return self._splits[split]

    def _evaluated(self, split: str) -> Images:
        """Those of a split that are evaluated on."""
        images = self._images(split)
        count = min(len(images), self.eval_samples or len(images))
        return images.take(np.arange(count) * len(images) // count)

    def _fetching(self, images: Images) -> tuple[Fetch, int]:
        return partial(_fetch, images, self._objective), len(images)


def _fetch(images: Images, objective: Objective, rows: Rows) -> Batch:
    """Those samples. Not within the task: processes that load data are sent it, and need no more than this."""
    pixels = images.pixels[rows].reshape(len(rows), -1)
    return objective.ask(torch.from_numpy(pixels.astype(np.int64)), torch.from_numpy(images.labels[rows]))


def _quantised(images: Images, available: int, levels: int) -> Images:
    pixels = images.pixels.astype(np.uint16) * np.uint16(levels) // np.uint16(available)
    return Images(pixels.astype(np.uint8), images.labels)
