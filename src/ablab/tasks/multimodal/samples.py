"""Samples of three modalities, the scale of their features, and what is left of them without some modalities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablab.tasks.base import Batch
from ablab.tasks.multimodal.instructions import AUDIO, IMAGE, MODALITIES, TEXT


@dataclass(frozen=True)
class Samples:
    """Samples as arrays, one row each."""

    image: NDArray[np.float32]  # (N, patches, pixels of a patch)
    audio: NDArray[np.float32]  # (N, tokens, features)
    text: NDArray[np.int64]  # (N, words)
    padding: NDArray[np.bool_]  # (N, patches + tokens + words), true where there is none
    answers: NDArray[np.int64]  # (N, 1)

    def take(self, rows: NDArray[np.int64] | slice) -> Samples:
        """Select those of such numbers."""
        return Samples(self.image[rows], self.audio[rows], self.text[rows], self.padding[rows], self.answers[rows])

    def without(self, left_out: NDArray[np.bool_]) -> Samples:
        """Leave out the modalities that are true in `left_out` (N, 3).

        Raises:
            ValueError: it leaves nothing of one of them.
        """
        if left_out.all(axis=1).any():
            raise ValueError("a sample without any modality: there is nothing to answer from")
        lengths = [self.image.shape[1], self.audio.shape[1], self.text.shape[1]]
        return replace(self, padding=self.padding | left_out.repeat(lengths, axis=1))

    def batch(self) -> Batch:
        """Return the samples as the model takes them."""
        inputs: dict[str, Any] = {IMAGE: self.image, AUDIO: self.audio, TEXT: self.text, "padding": self.padding}
        return {name: torch.from_numpy(array) for name, array in inputs.items()}, torch.from_numpy(self.answers)


def dropped(generator: np.random.Generator, count: int, probability: float) -> NDArray[np.bool_]:
    """Draw which modalities each of `count` samples lacks (count, 3); one that would lose all keeps one of them."""
    left_out = generator.random((count, len(MODALITIES))) < probability
    kept = generator.integers(0, len(MODALITIES), count)
    none = left_out.all(axis=1)
    left_out[none, kept[none]] = False
    return left_out


@dataclass(frozen=True, eq=False)
class Normaliser:
    """Take away the mean and divide by the standard deviation, each one number or one for each feature."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def of(cls, values: NDArray[np.float32], groups: int = 1) -> Normaliser:
        """Measure the normaliser of training features (..., F).

        Args:
            groups: so many features, at equal distances, share their scale: all F, or the frames of a token, where
                each frequency has its own. It divides F.
        """
        rows = values.reshape(-1, groups, values.shape[-1] // groups) if groups > 1 else values.reshape(-1, 1, 1)
        mean, deviation = rows.mean(axis=(0, 1), dtype=np.float64), rows.std(axis=(0, 1), dtype=np.float64)
        deviation = np.where(deviation > 0, deviation, 1.0)  # what never varies stays as it is
        repeat = groups if groups > 1 else 1
        return cls(np.tile(mean, repeat).astype(np.float32), np.tile(deviation, repeat).astype(np.float32))

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return normalised features, of the same shape (..., F)."""
        return ((values - self.mean) / self.deviation).astype(np.float32)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Normaliser):
            return NotImplemented
        return np.array_equal(self.mean, other.mean) and np.array_equal(self.deviation, other.deviation)

    def state(self) -> dict[str, Tensor]:
        return {"mean": torch.from_numpy(self.mean), "deviation": torch.from_numpy(self.deviation)}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Normaliser:
        return cls(state["mean"].numpy(), state["deviation"].numpy())
