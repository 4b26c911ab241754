"""The scale of a modality's features, from training samples alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Normaliser:
    """Takes away the mean and divides by the standard deviation, each one number or one for each feature."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def of(cls, values: NDArray[np.float32], groups: int = 1) -> Normaliser:
        """The normaliser of training features (..., F).

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
        """Normalised features, of the same shape (..., F)."""
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
