"""Learned weights, the same for every input (Peters et al. 2018, "ELMo", equation 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ablab.model.layer_fusion.base import LayerFusion, require_several
from ablab.model.spec import LayerSpec


class StaticFusion(LayerFusion):
    """gamma sum_i softmax(w)_i x_i over the layers' outputs x_i, with one learned number w_i per layer.

    Starts as the mean of the layers (w = 0), as the source does. Deviation: the source also weighs the embedding.

    Args:
        gamma: whether the sum has a learned scale, which starts at 1.

    Raises:
        ValueError: there is one layer.
    """

    def __init__(self, spec: LayerSpec, *, gamma: bool) -> None:
        super().__init__(spec)
        require_several(spec)
        self.logits = nn.Parameter(torch.zeros(spec.n_layers))
        self.gamma = nn.Parameter(torch.ones(())) if gamma else None

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        return self.logits.softmax(-1)

    def forward(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None = None) -> Tensor:
        fused = super().forward(streams, key_padding_mask)
        return fused if self.gamma is None else self.gamma * fused

    def mechanism(self) -> dict[str, float]:
        return {} if self.gamma is None else {"gamma": self.gamma.item()}
