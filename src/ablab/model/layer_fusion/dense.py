"""Every block sees a weighted sum of all that came before (Pagliardini et al. 2024, "DenseFormer")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ablab.model.layer_fusion.base import LayerFusion
from ablab.model.spec import LayerSpec


class DenseFusion(LayerFusion):
    """After block i (from 1; 0 is the embedding) the stream becomes sum_j a_ij x_j over the outputs x_0 ... x_i.

    One learned number per pair (section 3, "Depth Weighted Average"), of any sign and sum. It starts as the identity,
    a_ii = 1 and the others 0, so that training starts at the plain transformer. The last sum is what the head sees.

    Args:
        dilation: j runs over i, i - dilation, i - 2 dilation, ... (section 3, "Dilated DenseFormer"), at least 1.
        period: there is a sum after every `period`-th block and after the last one, at least 1. Deviation: the source
            has none after the last where the period does not divide the number of layers.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(self, spec: LayerSpec, *, dilation: int, period: int) -> None:
        super().__init__(spec)
        for name, value in (("dilation", dilation), ("period", period)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.dilation = dilation
        self.weights = nn.ParameterDict()
        for depth in range(1, spec.n_layers + 1):
            if depth % period == 0 or depth == spec.n_layers:
                start = torch.zeros(depth // dilation + 1)
                start[0] = 1
                self.weights[str(depth)] = nn.Parameter(start)

    def feed(self, streams: Sequence[Tensor]) -> Tensor:
        depth = len(streams) - 1
        if str(depth) not in self.weights:
            return streams[-1]
        weights = self.weights[str(depth)]
        mixed = weights[0] * streams[-1]
        for step in range(1, len(weights)):
            mixed = mixed + weights[step] * streams[depth - step * self.dilation]
        return mixed

    def forward(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None = None) -> Tensor:
        return self.feed(streams)

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        """Those of the last sum, without the embedding's."""
        weights = self.weights[str(self.n_layers)]
        every = weights.new_zeros(self.n_layers + 1)
        every[self.n_layers - self.dilation * torch.arange(len(weights), device=weights.device)] = weights
        return every[1:]

    def mechanism(self) -> dict[str, float]:
        """How far the sums are from the plain transformer's: the mean of |a_ij| over j < i, and the largest."""
        others = torch.cat([weights[1:] for weights in self.weights.values()]).abs()
        if not others.numel():
            return {}
        return {"skip_weight": others.mean().item(), "skip_weight_max": others.max().item()}
