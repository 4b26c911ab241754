"""Weights of the layers that are computed from the input, what the articles call adaptive layer fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ablab.model.layer_fusion.base import LayerFusion, require_several
from ablab.model.spec import LayerSpec


class AdaptiveFusion(LayerFusion):
    """sum_i softmax(A s)_i x_i over the layers' outputs x_i, with A (n_layers, d_model) and a bias learned.

    s is the last layer's output after a norm without parameters, either each token's own or summed up over the
    sequence. In a causal model a sequence is summed up by the mean over the tokens up to and including the own one,
    since a mean over all of them would tell of the future; where it is not causal, by the mean over all tokens.

    The articles do not say how the weights come from the input; this is the simplest way in which they can, a
    softmax of a linear map. A starts small, so that training starts next to the mean of the layers.

    Args:
        per: "token" or "sequence".

    Raises:
        ValueError: another word for `per`, or there is one layer.
    """

    adapts = True

    def __init__(self, spec: LayerSpec, *, per: Literal["token", "sequence"]) -> None:
        super().__init__(spec)
        if per not in ("token", "sequence"):
            raise ValueError(f"per={per}: must be token or sequence")
        require_several(spec)
        self.per = per
        self.gate = nn.Linear(spec.d_model, spec.n_layers)

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        last = streams[-1]
        summary = nn.functional.layer_norm(last, last.shape[-1:])
        if self.per == "sequence":
            summary = self._over_sequence(summary, key_padding_mask)
        weights: Tensor = self.gate(summary).softmax(-1)
        return weights

    def _over_sequence(self, x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        present = x.new_ones(x.shape[:2]) if key_padding_mask is None else (~key_padding_mask).to(x.dtype)
        present = present.unsqueeze(-1)
        # Where there is nothing, what lies there may be anything, NaN included.
        x = x if key_padding_mask is None else x.masked_fill(key_padding_mask.unsqueeze(-1), 0)
        if self.causal:
            return x.cumsum(1) / present.cumsum(1).clamp(min=1)
        return x.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
