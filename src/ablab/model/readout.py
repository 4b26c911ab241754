"""One vector for a whole sequence, where one answer is asked for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ablab.model.modal_fusion.layout import Layout


class MeanOfTokens(nn.Module):
    """The mean over the tokens that are there."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """x (B, T, d_model), the mask (B, T) true where no token is -> (B, 1, d_model); zero of no token at all."""
        if key_padding_mask is None:
            return x.mean(1, keepdim=True)
        there = (~key_padding_mask).to(x.dtype)[..., None]
        return (x * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)


class MixOfModalities(nn.Module):
    """The mean over each modality's tokens, and one hidden layer over those of all modalities together.

    h = gelu(b + (M / m) sum of W_i p_i over the m of M modalities that the sample has). It is the same for every modal
    fusion, so that late fusion, whose towers meet here alone, is not held back by a linear readout.
    """

    def __init__(self, layout: Layout, d_model: int) -> None:
        super().__init__()
        self.layout = layout
        self.pool = MeanOfTokens()
        self.weigh = nn.ModuleDict({name: nn.Linear(d_model, d_model, bias=False) for name in layout.names})
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """x (B, T, d_model), the mask (B, T) true where no token is -> (B, 1, d_model)."""
        total, count = x.new_zeros(len(x), 1, x.shape[-1]), x.new_zeros(len(x), 1, 1)
        for name, place in self.layout.places.items():
            mask = None if key_padding_mask is None else key_padding_mask[:, place]
            there = x.new_ones(len(x)) if mask is None else (~mask).any(1).to(x.dtype)
            # The mean of a missing modality is zero, and so is what it adds.
            total = total + self.weigh[name](self.pool(x[:, place], mask))
            count = count + there[:, None, None]
        return gelu(total * (len(self.layout.names) / count.clamp(min=1)) + self.bias)
