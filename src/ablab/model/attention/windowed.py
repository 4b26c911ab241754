"""Windowed attention: every query sees its neighbourhood only (Beltagy et al. 2020, section 3.1, sliding window).

The sequence is cut into blocks of queries; each block attends, by PyTorch's fused kernel, to the stretch of keys that
its queries can see, under a mask that leaves each query its own band. Stretches overlap in memory without being copied.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from ablab.model.spec import LayerSpec, require_at_least

# Blocks are as long as the window, which balances the keys that a block shares against those that it masks, but no
# shorter than this: tiny matrix products cost more than the masked keys that they would save.
SHORTEST_BLOCK = 32


class WindowedAttention(nn.Module):
    """Each query sees the `window` keys up to and including itself; where not causal, also `window` on either side.

    Time and memory grow as T times window. Where the window holds the whole sequence it is full attention.

    Args:
        window: in tokens, at least 1.
    """

    def __init__(self, spec: LayerSpec, *, window: int) -> None:
        super().__init__()
        require_at_least(1, "window", window)
        self.causal = spec.causal
        self.back = window - 1 if spec.causal else window  # keys before the query's own
        self.ahead = 0 if spec.causal else window

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = q.shape[2]
        if self.back >= length - 1:
            return scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        block = max(self.back + 1, SHORTEST_BLOCK)
        blocks = -(-length // block)
        stretch = self.back + block + self.ahead
        tail = blocks * block - length

        def stretches(x: Tensor) -> Tensor:  # (B, H, T, D) -> (B * H, blocks, stretch, D)
            padded = pad(x, (0, 0, self.back, tail + self.ahead))
            return padded.flatten(0, 1).unfold(1, stretch, block).transpose(2, 3)

        queries = pad(q, (0, 0, 0, tail)).flatten(0, 1).unflatten(1, (blocks, block))
        mask = self._mask(blocks, block, stretch, length, q.device)
        out = scaled_dot_product_attention(queries, stretches(k), stretches(v), attn_mask=mask)
        return out.flatten(1, 2)[:, :length].unflatten(0, q.shape[:2])

    def _mask(self, blocks: int, block: int, stretch: int, length: int, device: torch.device) -> Tensor:
        """(blocks, block, stretch), bool: which key of its block's stretch each query sees."""
        start = torch.arange(0, blocks * block, block, device=device)[:, None, None]
        query = start + torch.arange(block, device=device)[:, None]
        key = start - self.back + torch.arange(stretch, device=device)
        # Queries past the end are thrown away. They keep their own, empty key: a row without any key would be NaN.
        return self._band(query, key) & (key >= 0) & ((key < length) | (query >= length))

    def _band(self, query: Tensor, key: Tensor) -> Tensor:
        return (key >= query - self.back) & (key <= query + self.ahead)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        return self._band(positions[:, None], torch.arange(k.shape[2], device=k.device))
