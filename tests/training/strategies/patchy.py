"""A task whose batches hold unequally many targets, for configs to name as their `_target_`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ablab.tasks.base import IGNORED
from ablab.tasks.text import Text


class PatchyText(Text):
    """Asks for digits alone, of which some windows have many and others few."""

    equal_shares = False

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return super().loss(logits, self._asked(targets))

    def weight(self, targets: Tensor) -> Tensor:
        return super().weight(self._asked(targets))

    def _asked(self, targets: Tensor) -> Tensor:
        digits = self.encode("0123456789").to(targets.device)
        return targets.masked_fill((targets[..., None] != digits).all(-1), IGNORED)


class MaskedText(Text):
    """Serves digits alone as targets, of which some windows have many and others few."""

    equal_shares = False

    def _loader(self, batches: Dataset[Any], order: range) -> DataLoader[Any]:
        return super()._loader(_Digits(batches, self.encode("0123456789")), order)


class _Digits(Dataset[Any]):
    def __init__(self, batches: Any, digits: Tensor) -> None:
        self._batches, self._digits = batches, digits

    def __getitem__(self, index: int) -> Any:
        inputs, targets = self._batches[index]
        return inputs, targets.masked_fill((targets[..., None] != self._digits).all(-1), IGNORED)
