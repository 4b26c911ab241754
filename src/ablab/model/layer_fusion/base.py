"""The contract of layer fusions, and the two without parameters: the last layer, and the mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ablab.model.attention.cache import LayerCache, Step
from ablab.model.spec import LayerSpec


class LayerFusion(nn.Module):
    """Makes one stream of the layers' outputs, for the model's last norm and head.

    A weighted sum, unless an option overrides `forward`. The embedding is the input of the layers and none of them.
    """

    weighs = True  # whether it has weights that are worth a look
    adapts = False  # whether the weights are said to depend on the input

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.n_layers, self.causal = spec.n_layers, spec.causal

    def feed(self, streams: Sequence[Tensor]) -> Tensor:
        """The input of the next block, of the embedding and the outputs of the blocks so far, each (B, T, d_model)."""
        return streams[-1]

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        """The weights of the layers, the last dimension n_layers, broadcastable to (B, T, n_layers)."""
        raise NotImplementedError

    def forward(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None = None) -> Tensor:
        """One stream (B, T, d_model) of the embedding and all blocks' outputs; the mask is true where no token is."""
        return self.sum(streams, self.weigh(streams, key_padding_mask))

    def sum(self, streams: Sequence[Tensor], weights: Tensor) -> Tensor:
        """The blocks' outputs, weighed."""
        fused = weights[..., 0:1] * streams[1]
        for layer in range(1, self.n_layers):
            fused = fused + weights[..., layer : layer + 1] * streams[layer + 1]
        return fused

    def new_cache(self, batch: int) -> LayerCache | None:
        """What `extend` goes on from, for so many samples; None: each token is fused without the others."""
        return None

    def cache_numbers(self) -> int:
        """How many numbers a cache keeps of a sample, however long."""
        return 0

    def extend(self, streams: Sequence[Tensor], step: Step, cache: LayerCache | None) -> Tensor:
        """`forward` for new tokens alone, (B, S, d_model), which means nothing where a sample has none."""
        fused: Tensor = self(streams, step.padding)
        return fused


class LastLayer(LayerFusion):
    """The output of the last layer, as in every plain transformer (Vaswani et al. 2017)."""

    weighs = False

    def forward(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None = None) -> Tensor:
        return streams[-1]


class MeanOfLayers(LayerFusion):
    """The mean of all layers' outputs.

    Raises:
        ValueError: there is one layer.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        require_several(spec)

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        return torch.full((self.n_layers,), 1 / self.n_layers, dtype=streams[-1].dtype, device=streams[-1].device)


def require_several(spec: LayerSpec) -> None:
    """Raises ValueError where there is one layer, whose weight is 1 whatever it is made from."""
    if spec.n_layers < 2:
        raise ValueError("model.n_layers=1 leaves no layers to weigh: take more, or layer_fusion=last")
