"""A task whose batches hold unequally many targets, for configs to name as their `_target_`."""

from __future__ import annotations

from torch import Tensor

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
