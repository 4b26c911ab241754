"""Blocks of keys or values made into one each (native sparse attention, section 3.3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from ablab.model.spec import LayerSpec


class Compression(nn.Module):
    """A block's tokens, each with an encoding of its place within the block, through two linear layers.

    The second layer has no bias: to a key it would add a constant, which the softmax over keys does not see.

    Args:
        block: tokens per block.
        stride: tokens from one block's start to the next one's.
    """

    def __init__(self, spec: LayerSpec, *, block: int, stride: int) -> None:
        super().__init__()
        size = spec.head_size
        self.block, self.stride = block, stride
        self.place = nn.Embedding(block, size)
        self.into = _Linear(block * size, 2 * size, bias=spec.bias)
        self.out = _Linear(2 * size, size, bias=False)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """x (B, K, T, D) and which of its tokens there are, bool (B, T), -> (B, K, N, D) for N blocks."""
        length = self.block + (self.count(x.shape[2]) - 1) * self.stride  # the last block may go on beyond the sequence
        x = pad(x.to(self.place.weight.dtype), (0, 0, 0, length - x.shape[2]))
        there = pad(there, (0, length - there.shape[1]))
        blocks = x.unfold(2, self.block, self.stride).transpose(-1, -2) + self.place.weight  # (B, K, N, block, D)
        blocks = blocks * there.unfold(1, self.block, self.stride)[:, None, :, :, None]
        compressed: Tensor = self.out(gelu(self.into(blocks.flatten(-2))))
        return compressed

    def count(self, length: int) -> int:
        """Blocks that cover `length` tokens, at least one."""
        return 1 + max(0, -((self.block - length) // self.stride))


class _Linear(nn.Linear):
    """With initial values that keep the variance: a compressed key starts about as large as a key."""

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "weight":
            parameter.normal_(std=self.in_features**-0.5, generator=generator)
        else:
            parameter.zero_()
