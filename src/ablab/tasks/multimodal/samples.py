"""Samples of three modalities, and what is left of them without some."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ablab.tasks.base import Batch
from ablab.tasks.multimodal.oracle import AUDIO, IMAGE, MODALITIES, TEXT


@dataclass(frozen=True)
class Samples:
    """Samples as arrays, one row each."""

    image: NDArray[np.float32]  # (N, patches, pixels of a patch)
    audio: NDArray[np.float32]  # (N, tokens, features)
    text: NDArray[np.int64]  # (N, words)
    padding: NDArray[np.bool_]  # (N, patches + tokens + words), true where there is none
    answers: NDArray[np.int64]  # (N, 1)

    def take(self, rows: NDArray[np.int64] | slice) -> Samples:
        """Those of such numbers."""
        return Samples(self.image[rows], self.audio[rows], self.text[rows], self.padding[rows], self.answers[rows])

    def without(self, left_out: NDArray[np.bool_]) -> Samples:
        """The samples without the modalities that are true in `left_out` (N, 3).

        Raises:
            ValueError: it leaves nothing of one of them.
        """
        if left_out.all(axis=1).any():
            raise ValueError("a sample without any modality: there is nothing to answer from")
        lengths = [self.image.shape[1], self.audio.shape[1], self.text.shape[1]]
        return replace(self, padding=self.padding | left_out.repeat(lengths, axis=1))

    def batch(self) -> Batch:
        """The samples as the model takes them."""
        inputs: dict[str, Any] = {IMAGE: self.image, AUDIO: self.audio, TEXT: self.text, "padding": self.padding}
        return {name: torch.from_numpy(array) for name, array in inputs.items()}, torch.from_numpy(self.answers)


def dropped(generator: np.random.Generator, count: int, probability: float) -> NDArray[np.bool_]:
    """Which modalities each of `count` samples goes without (count, 3); one that would lose all keeps one of them."""
    left_out = generator.random((count, len(MODALITIES))) < probability
    kept = generator.integers(0, len(MODALITIES), count)
    none = left_out.all(axis=1)
    left_out[none, kept[none]] = False
    return left_out
