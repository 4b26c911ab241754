"""Words, or whatever has ids."""

from __future__ import annotations

from torch import Tensor, nn


class TextEncoder(nn.Embedding):
    """One trained vector for each token id: (B, length) int64 -> (B, length, d_model)."""

    def __init__(self, d_model: int, *, length: int, vocab_size: int) -> None:
        super().__init__(vocab_size, d_model)
        self.length = length

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids)
