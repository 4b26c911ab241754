"""Does the order of the tokens reach the attention?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ablab.model.modal_fusion.base import block_of
from ablab.model.ranks import has_first_samples, sum_over_ranks
from ablab.model.transformer import Transformer

TOKENS = 256  # of the first sequence that is looked at


class PositionWatcher:
    """Keeps the first embedded sequence that passes, and asks the first layer's attention about it.

    Of several modalities it asks about the longest alone.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._sample: Tensor | None = None  # (1, T, d_model)
        lengths = model.modal_fusion.layout.lengths
        self._modality = max(lengths, key=lambda name: lengths[name])

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Of the embedding."""
        own = output[:1, self._model.modal_fusion.layout.places[self._modality]]
        if self._sample is None and own.shape[1] > 2 and has_first_samples():
            self._sample = own[:, :TOKENS].detach()

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """`order_sensitivity`: how far what the last token gets moves when all tokens before it are turned round.

        Relative to its size. Full attention without positions cannot tell the two apart: 0. The sample is the first
        of all; every process of a distributed run must call it.
        """
        device = self._model.head.weight.device
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        if self._sample is not None:
            there, back = (self._of_last(x) for x in (self._sample, _turned(self._sample)))
            size = there.norm()
            totals[0], totals[1] = (there - back).norm() / size if size > 0 else 0.0, 1.0
        total, count = sum_over_ranks(totals).tolist()
        return {"order_sensitivity": total / count} if count else {}

    def _of_last(self, x: Tensor) -> Tensor:
        position, first = self._model.position, block_of(self._model.blocks[0], self._modality)
        x = position.add(x, self._model.modal_fusion.layout.places[self._modality].start)
        mixed: Tensor = first.attention(first.attention_norm(x) if first.norm_first else x, position.rotate)
        return mixed[0, -1].double()


def _turned(x: Tensor) -> Tensor:
    return torch.cat([x[:, :-1].flip(1), x[:, -1:]], 1)
