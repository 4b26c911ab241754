"""A right attention, written out, which the wrong ones change in a line or two."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ablab.model.attention.base import AttentionCore, repeat_heads
from ablab.model.spec import LayerSpec


class Tempered(AttentionCore):
    """softmax(tau_h q k^T / sqrt(D)) v, with a temperature to learn for each head."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.temperature = nn.Parameter(torch.full((spec.n_heads,), 1.5))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        k, v = (repeat_heads(each, q.shape[1]) for each in (k, v))
        return self.shares(self.scored(q, k), self.hidden(q, key_padding_mask)) @ v

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        """Scores (B, H, S, T)."""
        return self.temperature.to(q.dtype)[:, None, None] * (q @ k.mT) / math.sqrt(q.shape[-1])

    def hidden(self, q: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """True where a query does not see a key, broadcastable to (B, H, T, T)."""
        hidden = ~self.allowed(torch.arange(q.shape[2], device=q.device), q.shape[2])
        return hidden if key_padding_mask is None else hidden | key_padding_mask[:, None, None, :]

    def allowed(self, positions: Tensor, length: int) -> Tensor:
        """Keys that queries at `positions` may see, (S, T)."""
        keys = torch.arange(length, device=positions.device)
        return keys <= positions[:, None] if self.causal else torch.ones_like(keys <= positions[:, None])

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        """Weights of the keys; none where all are hidden."""
        return scores.masked_fill(hidden, -1e4).softmax(-1).masked_fill(hidden, 0)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        return self.allowed(positions, k.shape[2])

    def weights(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        scores = self.scored(q[:, :, positions], repeat_heads(k, q.shape[1]))
        return self.shares(scores, ~self.visited(q, k, positions))
