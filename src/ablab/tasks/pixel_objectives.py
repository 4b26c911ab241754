"""What is asked of an image that is a sequence of pixels: its class, or each pixel from those before it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablab.results.record import Direction
from ablab.tasks.base import Batch
from ablab.tasks.images import CLASSES, Images

Model = Callable[[Any], Tensor]  # tokens (B, T) -> logits (B, T, levels)

_MOST_PICTURED = 64  # images in a picture
_MOST_TOKENS = 1_300_000  # that a model reads to make them: all earlier pixels again for each
_PSEUDO_COUNTS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
_GAP = 1  # pixels between images
_GAP_GREY = 96


class Objective(ABC):
    """What is asked, of images with so many grey levels."""

    pooled: ClassVar[bool]
    causal: ClassVar[bool]
    metric: ClassVar[str]  # by which runs are judged
    direction: ClassVar[Direction]

    def __init__(self, levels: int) -> None:
        self.levels = levels

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of input tokens."""

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Number of answers to choose from."""

    @abstractmethod
    def ask(self, pixels: Tensor, labels: Tensor) -> Batch:
        """Inputs and targets, of pixels (B, P) and labels (B,), all int64."""

    @abstractmethod
    def oracle(self, train: Images, val: Images) -> dict[str, float]:
        """Values of `metric` on the images of `val` that are known without a model."""

    def metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return the task's metrics, of those that every answer task has."""
        return metrics

    def pictures(self, model: Model, val: Images, seed: int) -> dict[str, Tensor]:
        """What the model makes, as `Task.pictures` says."""
        return {}


class Classify(Objective):
    """Which of the classes is it? Every pixel may see every other, and the model reads the mean over them."""

    pooled, causal = True, False
    metric, direction = "accuracy", "max"

    @property
    def vocab_size(self) -> int:
        return self.levels

    @property
    def n_outputs(self) -> int:
        return CLASSES

    def ask(self, pixels: Tensor, labels: Tensor) -> Batch:
        return pixels, labels[:, None]

    def oracle(self, train: Images, val: Images) -> dict[str, float]:
        """`chance`: the share of the most frequent class; `ceiling`: all of them."""
        return {"chance": float(np.bincount(val.labels).max() / len(val)), "ceiling": 1.0}


class Generate(Objective):
    """Each pixel from those before it; the first from a start token, which is one level more than there are."""

    pooled, causal = False, True
    metric, direction = "loss", "min"

    @property
    def vocab_size(self) -> int:
        return self.levels + 1

    @property
    def n_outputs(self) -> int:
        return self.levels

    def ask(self, pixels: Tensor, labels: Tensor) -> Batch:
        return torch.cat([self._start(len(pixels)), pixels[:, :-1]], dim=1), pixels

    def oracle(self, train: Images, val: Images) -> dict[str, float]:
        """`chance`: all levels alike. `position_histogram`: how frequent each level was in its place in training."""
        return {"chance": math.log(self.levels), "position_histogram": histogram_nats(train, val, self.levels)}

    def metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """`loss` in nats, `bits_per_dim` and `accuracy`, each of pixels. No image is ever guessed exactly."""
        loss = metrics["loss"]
        return {"loss": loss, "bits_per_dim": loss / math.log(2), "accuracy": metrics["accuracy"]}

    def pictures(self, model: Model, val: Images, seed: int) -> dict[str, Tensor]:
        """`generated`: sampled at temperature 1; `real`: as many of `val`. Fewer of large images, which take longer."""
        height, width = val.pixels.shape[1:]
        side = max(1, math.isqrt(min(_MOST_PICTURED, _MOST_TOKENS // ((height * width) ** 2 // 2 + 1))))
        made = self.sample(model, side * side, height * width, torch.Generator().manual_seed(seed))
        shown = {"generated": made.view(-1, height, width), "real": torch.from_numpy(val.pixels[: side * side])}
        return {name: grid(images * 255.0 / (self.levels - 1), side) for name, images in shown.items()}

    @torch.no_grad()
    def sample(self, model: Model, count: int, pixels: int, generator: torch.Generator) -> Tensor:
        """Levels int64 (count, pixels), each drawn from what the model expects after those before it."""
        tokens = self._start(count)
        for _ in range(pixels):
            chances = model(tokens)[:, -1].float().softmax(-1)
            tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], dim=1)
        return tokens[:, 1:]

    def _start(self, count: int) -> Tensor:
        return torch.full((count, 1), self.levels)


OBJECTIVES: dict[str, type[Objective]] = {"classify": Classify, "generate": Generate}


def histogram_nats(train: Images, val: Images, levels: int) -> float:
    """Nats per pixel of `val` under the frequencies of levels in `train`, a distribution of its own for each place.

    To each frequency the same is added, so that no level is impossible: that of a few amounts which predicts each image
    of `train` best from all others.
    """
    counts = np.stack([np.bincount(place, minlength=levels) for place in train.pixels.reshape(len(train), -1).T])
    added = max(_PSEUDO_COUNTS, key=lambda amount: _left_out_nats(counts, amount))
    logs = np.log(counts + added) - np.log(len(train) + added * levels)  # (places, levels)
    own = val.pixels.reshape(len(val), -1)
    return -float(logs[np.arange(own.shape[1]), own].mean())


def _left_out_nats(counts: NDArray[np.int64], added: float) -> float:
    """Log-likelihood of each image under the counts (places, levels) of all others, summed over them."""
    others = np.where(counts > 0, counts - 1, 0)
    total = counts[0].sum() - 1 + added * counts.shape[1]
    return float((counts * np.log((others + added) / total)).sum())


def grid(images: Tensor, columns: int) -> Tensor:
    """Images (N, H, W) with greys 0..255 beside and below each other, with a grey gap: uint8 (height, width)."""
    count, height, width = images.shape
    rows = -(-count // columns)
    cells = torch.full((rows * columns, height + _GAP, width + _GAP), _GAP_GREY, dtype=torch.uint8)
    cells[:count, :height, :width] = images.round().to(torch.uint8)
    cells = cells.view(rows, columns, height + _GAP, width + _GAP)
    return cells.transpose(1, 2).reshape(rows * (height + _GAP), columns * (width + _GAP))[:-_GAP, :-_GAP]
