"""Blocks of keys and values, each made into one or chosen whole (native sparse attention, sections 3.3.1 and 3.3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu, pad

from ablab.model.attention.base import by_query, repeat_heads
from ablab.model.attention.dense import softmax_attention
from ablab.model.spec import LayerSpec

# Where a query chooses fewer than one key in so many, its keys are gathered; else the others are hidden, which costs
# less than moving so many keys.
GATHER_FROM = 16


class Compression(nn.Module):
    """Makes one of each block of keys or values.

    A block's tokens, each with an encoding of its place within the block, go through two linear layers. The second
    layer has no bias: to a key it would add a constant, which the softmax over keys does not see.

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
        return self._made_one(blocks * there.unfold(1, self.block, self.stride)[:, None, :, :, None])

    def of_blocks(self, blocks: Tensor) -> Tensor:
        """Blocks of tokens (B, K, N, block, D), of which there are all -> (B, K, N, D)."""
        return self._made_one(blocks.to(self.place.weight.dtype) + self.place.weight)

    def _made_one(self, placed: Tensor) -> Tensor:
        compressed: Tensor = self.out(gelu(self.into(placed.flatten(-2))))
        return compressed

    def past(self, length: int) -> int:
        """Blocks that end within `length` tokens."""
        return max(0, (length - self.block) // self.stride + 1)

    def count(self, length: int) -> int:
        """Blocks that cover `length` tokens, at least one."""
        return 1 + max(0, -((self.block - length) // self.stride))

    def seen(self, positions: Tensor, there: Tensor, causal: bool) -> Tensor:
        """(B, 1, S, N): which blocks queries at `positions` (S,) see, of tokens that are `there` (B, T)."""
        some = self.some(there, causal)[:, None, None, :]
        if not causal:
            return some.expand(-1, -1, len(positions), -1)
        ends = torch.arange(some.shape[-1], device=there.device) * self.stride + self.block - 1
        return some & (ends <= positions[:, None])

    def some(self, there: Tensor, causal: bool) -> Tensor:
        """(B, N): which blocks there are, of tokens that are `there` (B, T)."""
        length = self.block + (self.count(there.shape[1]) - 1) * self.stride
        blocks = pad(there, (0, length - there.shape[1])).unfold(1, self.block, self.stride)
        some = blocks.any(-1)
        if causal:
            return some
        # What a block has before its last stride is in the one before it, too: padding behind a text makes no more.
        return torch.cat([some[:, :1], blocks[:, 1:, -self.stride :].any(-1)], dim=-1)

    def shares_of(self, share: Tensor, size: int, count: int) -> Tensor:
        """Weights of the blocks (..., N), added up over larger or smaller ones (..., J) that they overlap.

        Block i begins at i strides; the `count` others of `size` tokens, a multiple of the stride, lie side by side.
        The sum goes over the `outer` + `inner` - 1 blocks that meet one of them, times the strides that both have.
        """
        outer, inner = self.block // self.stride, size // self.stride
        width = outer + inner - 1
        overlap = torch.tensor([min(i + 1, outer, inner, width - i) for i in range(width)])
        missing = (count - 1) * inner + width - (outer - 1) - share.shape[-1]  # negative: beyond the last block
        return pad(share, (outer - 1, missing)).unfold(-1, width, inner) @ overlap.to(share)


class _Linear(nn.Linear):
    """With initial values that keep the variance: a compressed key starts about as large as a key."""

    initialised_by_fan_in = True

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "weight":
            parameter.normal_(std=self.in_features**-0.5, generator=generator)
        else:
            parameter.zero_()


def selected_attention(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int, count: int, there: Tensor, last: Tensor | None,
    sinks: Tensor | None = None, softcap: float | None = None,
) -> Tensor:  # fmt: skip
    """Softmax attention to the keys of chosen blocks.

    Args:
        q: (B, H, S, D); k (B, K, T, D) and v (B, K, T, Dv) with K dividing H.
        chosen: (B, K, S, J) bool, the blocks that the heads of a group see together, at most `count` of them.
        block: keys per block; the last one may be shorter.
        there: (B, T) bool, false for padding.
        last: (S,) the last key that each query may see; None: no limit.
        sinks: (H,), a logit in each softmax that has no value.
        softcap: bounds the scores.

    Returns:
        (B, H, S, Dv), zero where a query sees nothing.
    """
    few = chosen.shape[-1] >= GATHER_FROM * count
    return (_gathered if few else _hidden)(q, k, v, chosen, block, count, there, last, sinks, softcap)


def tokens_of(chosen: Tensor, block: int, length: int) -> Tensor:
    """Blocks (..., J) -> tokens (..., length)."""
    return chosen.repeat_interleave(block, dim=-1)[..., :length]


def _hidden(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int, count: int, there: Tensor, last: Tensor | None,
    sinks: Tensor | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    length = k.shape[2]
    mask = tokens_of(chosen, block, length) & there[:, None, None, :]
    if last is not None:
        mask = mask & (torch.arange(length, device=k.device) <= last[:, None])
    mask = repeat_heads(mask, q.shape[1])
    return softmax_attention(q, k, v, mask=mask, sinks=by_query(sinks), softcap=softcap)


def _gathered(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int, count: int, there: Tensor, last: Tensor | None,
    sinks: Tensor | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    (B, H, S, D), (K, T), J = q.shape, k.shape[1:3], chosen.shape[-1]
    found, index = chosen.int().topk(min(count, J), sorted=False)  # (B, K, S, n)
    rows = torch.arange(B * K, device=q.device).view(B, K, 1, 1) * J + index

    def blocks_of(x: Tensor) -> Tensor:  # (B, K, T, D) -> (B * K * S, 1, n * block, D)
        table = pad(x, (0, 0, 0, J * block - T)).reshape(B * K * J, -1)
        return embedding(rows, table).view(B * K * S, 1, -1, x.shape[-1])

    key = (index.unsqueeze(-1) * block + torch.arange(block, device=q.device)).flatten(-2)  # (B, K, S, n * block)
    known = pad(there, (0, J * block - T))[:, None, None, :].expand(B, K, S, -1)
    mask = known.gather(-1, key) & found.bool().repeat_interleave(block, dim=-1)
    if last is not None:
        mask = mask & (key <= last[:, None])
    group = q.unflatten(1, (K, H // K)).transpose(2, 3).reshape(B * K * S, 1, H // K, D)
    if sinks is not None:  # the heads of a group stand where others have queries
        sinks = sinks.view(1, K, 1, H // K).expand(B, K, S, -1).reshape(B * K * S, 1, -1)
    mask = mask.reshape(B * K * S, 1, 1, -1)
    out = softmax_attention(group, blocks_of(k), blocks_of(v), mask=mask, sinks=sinks, softcap=softcap)
    return out.view(B, K, S, H // K, -1).transpose(2, 3).flatten(1, 2)
