"""One vector for a whole sequence, where one answer is asked for it."""

from __future__ import annotations

from torch import Tensor, nn


class MeanOfTokens(nn.Module):
    """The mean over the tokens that are there."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """x (B, T, d_model), the mask (B, T) true where no token is -> (B, 1, d_model); zero of no token at all."""
        if key_padding_mask is None:
            return x.mean(1, keepdim=True)
        there = (~key_padding_mask).to(x.dtype)[..., None]
        return (x * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
