"""Positions, norms, fusions and an objective that are right and look odd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ablab.model.layer_fusion.base import LayerFusion
from ablab.model.modal_fusion.base import Layout
from ablab.model.modal_fusion.options import EarlyFusion
from ablab.model.norm import Norm, Placement
from ablab.model.objective.base import IGNORED, Asked, Objective, mean_over_data
from ablab.model.position import Position
from ablab.model.spec import LayerSpec

Activation = Callable[[LayerSpec], nn.Module]


class MeanSize(Norm):
    """Divides by the mean size, in single precision at least."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre", eps: float = 1e-2) -> None:
        super().__init__(spec, placement=placement, eps=eps, bias=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return (exact / (exact.abs().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class JitteredPosition(Position):
    """A table with noise in training, by torch's generator."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(spec.max_length, spec.d_model))

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        table = self.weight[offset : offset + x.shape[1]]
        return x + (table + 0.01 * torch.randn_like(table) if self.training else table)

    def add_at(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.weight[positions]


class FirstAndLast(LayerFusion):
    """The last layer, and the first one by a factor for each feature that starts at 0."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.factor = nn.Parameter(torch.zeros(spec.d_model))

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        weights = torch.zeros(self.n_layers, dtype=streams[-1].dtype, device=streams[-1].device)
        weights[-1], weights[0] = 1, self.factor.mean()
        return weights

    def forward(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None = None) -> Tensor:
        return streams[-1] + self.factor * streams[1]


class ConfidenceAsked(Objective):
    """Asks for confidence: the entropy of what is told, where it counts."""

    def __init__(self, spec: LayerSpec, *, block: Callable[..., Any], norm: Callable[..., Any]) -> None:
        super().__init__(spec, block=block, norm=norm)
        self._asked: Tensor | None = None

    def forward(self, asked: Asked) -> None:
        if not self.training:
            return
        counted = asked.targets != IGNORED
        entropy = torch.distributions.Categorical(logits=asked.logits.float()).entropy()
        sums = torch.where(counted, entropy, 0.0).sum()
        self._asked = 0.05 * mean_over_data(sums[None], counted.sum()[None])[0]

    def penalty(self) -> Tensor:
        """Of the last pass."""
        assert self._asked is not None
        return self._asked


class WeighedModalities(EarlyFusion):
    """What comes out of a layer is weighed by a gate for each token."""

    def __init__(self, spec: LayerSpec, *, layout: Layout) -> None:
        super().__init__(spec, layout=layout)
        self.gate = nn.Linear(spec.d_model, 1)

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: Any) -> Tensor:
        weight: Tensor = self.gate(x).sigmoid()
        return super().layer(layer, blocks, x, context) * (0.5 + weight)
