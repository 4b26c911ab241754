"""Full attention: every query sees every key (up to and including its own position, where causal)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from ablab.model.attention.base import AttentionCore, self_only_if_alone, tilt
from ablab.model.attention.dense import dense_attention


class FullAttention(AttentionCore):
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, section 3.2.1), by PyTorch's fused kernel.

    Time grows as T^2. Memory grows as T, except that it takes T^2 for the mask of a padded causal sequence, for that of
    shared queries and keys, for a bias by distance, and on a CPU for dropping weights.
    """

    by_head = True
    drops_weights = True
    takes_slopes = True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        narrower = q.shape[-1] - v.shape[-1]
        if narrower > 0 and q.device.type == "cpu":
            # The CPU's fused kernel wants values as wide as keys; without it, memory would grow as T^2.
            return self._attend(q, k, pad(v, (0, narrower)), key_padding_mask)[..., :-narrower]
        return self._attend(q, k, v, key_padding_mask)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training and self.dropout_on == "weights" else 0.0
        if key_padding_mask is None and not self.share_qk and self.slopes is None:
            grouped = k.shape[1] != q.shape[1]
            return scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.causal, enable_gqa=grouped)
        positions = torch.arange(q.shape[2], device=q.device)
        mask = self._allowed(positions, k.shape[2])
        if self.share_qk:
            mask = mask & (positions[:, None] != positions)
        bias = None if self.slopes is None else tilt(self.slopes, positions, k.shape[2], q.dtype)
        return dense_attention(q, k, v, mask, key_padding_mask, own_if_alone=self.share_qk, dropout=dropout, bias=bias)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        mask = self._allowed(positions, k.shape[2])
        return self_only_if_alone(mask, positions) if self.share_qk else mask

    def _allowed(self, positions: Tensor, length: int) -> Tensor:
        """(S, T), or (1, T) where every query sees the same keys."""
        keys = torch.arange(length, device=positions.device)
        return keys <= positions[:, None] if self.causal else torch.ones_like(keys, dtype=torch.bool)[None]
