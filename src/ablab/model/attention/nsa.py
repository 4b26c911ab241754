"""Native sparse attention (Yuan et al. 2025, arXiv 2502.11089, section 3).

Three attentions side by side, each with keys and values of its own, weighed by gates that read the input:

* compressed: blocks of keys and values are made into one each by a small network, and all of them are seen;
* selected: the scores of the compressed keys say which blocks matter; these are seen token by token;
* window: the last tokens.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ablab.model.attention.base import (
    AttentionCore,
    DropoutPlace,
    Switches,
    bounded,
    by_query,
    repeat_heads,
    scores_of,
    softmax_of,
)
from ablab.model.attention.blocks import Compression, selected_attention, tokens_of
from ablab.model.attention.dense import highest, recomputed, softmax_attention
from ablab.model.attention.kernel import without_autocast
from ablab.model.attention.layer import AttentionLayer, HeadNorm, Rotate, join_heads, normed, split_heads
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.initialisation import ResidualLinear
from ablab.model.spec import LayerSpec, require_at_least

SLICE = 2**22  # scores, or elements of gathered keys and values, that are there at one time


class NativeSparseAttention(AttentionLayer):
    """Projections and gates around the three branches of `NativeSparseCore`, whose options it takes.

    The position rotates what the selected branch and the window compare, as it does for other options. Compressed keys
    stand for a stretch of positions; they and the queries that they meet are not rotated, and their order within a
    block is told by the encoding of `Compression`. (The paper leaves this open.)
    """

    core: NativeSparseCore

    def __init__(
        self,
        spec: LayerSpec,
        *,
        compress_block: int,
        compress_stride: int,
        select_block: int,
        selected_blocks: int,
        window: int,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__()
        if switches.get("output_gate", "none") != "none":
            raise ValueError(
                f"attention.output_gate={switches['output_gate']}: native sparse attention has gates of its own, one "
                "for each branch of each head: use attention.output_gate=none"
            )
        d, branches = spec.d_model, len(BRANCHES)
        self.head_size = spec.head_size
        self.query = nn.Linear(d, d, bias=spec.bias)
        self.key = nn.Linear(d, branches * spec.kv_heads * spec.head_size, bias=spec.bias)
        self.value = nn.Linear(d, branches * spec.kv_heads * spec.head_size, bias=spec.bias)
        hidden = max(1, d // 4)
        self.gate = nn.Sequential(
            nn.Linear(d, hidden, bias=spec.bias), nn.GELU(), nn.Linear(hidden, branches * spec.n_heads, bias=spec.bias)
        )
        self.core = NativeSparseCore(
            spec,
            compress_block=compress_block,
            compress_stride=compress_stride,
            select_block=select_block,
            selected_blocks=selected_blocks,
            window=window,
            dropout=dropout,
            dropout_on=dropout_on,
            **switches,
        )
        self.query_norm = HeadNorm(spec.head_size, eps=1e-6) if self.core.qk_norm else None
        self.key_norm = HeadNorm(spec.head_size, eps=1e-6) if self.core.qk_norm else None
        self.output = ResidualLinear(d, d, bias=spec.bias, n_layers=spec.n_layers)

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        branches = len(BRANCHES)
        q = normed(split_heads(self.query(x), self.head_size), self.query_norm)
        keys = split_heads(self.key(x), branches * self.head_size).unflatten(-1, (branches, self.head_size))
        compressed, *others = normed(keys, self.key_norm).unbind(-2)
        turned, keys = rotate(q, torch.cat(others, dim=1))
        k = torch.cat([compressed, *keys.chunk(len(others), dim=1)], dim=-1)
        v = split_heads(self.value(x), branches * self.head_size)
        q = torch.cat([q, *[turned] * len(others)], dim=-1)
        mixed = self.core(q, k, v, key_padding_mask).unflatten(-1, (branches, self.head_size))
        gates = self.gate(x).sigmoid().unflatten(-1, (-1, branches)).transpose(1, 2)  # (B, H, T, branches)
        out: Tensor = self.output(join_heads((mixed * gates.unsqueeze(-1)).sum(-2)))
        return out


BRANCHES = ("compressed", "selected", "window")


class NativeSparseCore(AttentionCore):
    """The three branches, side by side in the last dimension of queries, keys, values and output, in this order.

    Where causal, a block's compression is seen from the block's last token on. For every query and every head of keys,
    blocks are selected by the softmax of their compressed keys, added up over the query heads of the group (equation
    10) and over compressed blocks that overlap the selected one, in proportion to the overlap (equation 9). The first
    block, the query's own and the one before are always among the selected, as in the paper. Of equal scores the later
    block is taken; blocks of padding alone are none. Tokens that are padding count as zeros in a compressed block, and
    blocks of padding alone are not seen.

    The paper is about causal models only. Where not causal, every compressed block is seen, the block after the query's
    own is always selected too, and the window extends to both sides.

    Time grows as T^2 / compress_stride for the compressed branch, and as T for the others. Memory grows as T: a slice
    of queries is attended at a time, and again in the backward pass.

    With sinks the softmaxes of the compressed and of the selected branch have one logit for each head, and that of the
    window another (the paper has none).

    What it says of itself (`visited`, `weights`) is about tokens seen one by one: the selected ones and the window's.

    Args:
        compress_block: tokens per compressed block, a multiple of `compress_stride`.
        compress_stride: tokens from one compressed block to the next.
        select_block: tokens per block of the selection, a multiple of `compress_stride`.
        selected_blocks: that a query sees, those always selected included.
        window: see `ablab.model.attention.windowed.WindowedAttention`.
    """

    def __init__(
        self,
        spec: LayerSpec,
        *,
        compress_block: int,
        compress_stride: int,
        select_block: int,
        selected_blocks: int,
        window: int,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__(spec, dropout=dropout, dropout_on=dropout_on, **switches)
        require_at_least(1, "compress_stride", compress_stride)
        for name, block in (("compress_block", compress_block), ("select_block", select_block)):
            require_at_least(1, name, block)
            if block % compress_stride:
                raise ValueError(f"{name}={block} must be a multiple of compress_stride={compress_stride}")
        require_at_least(3 if spec.causal else 4, "selected_blocks", selected_blocks)
        self.compress_block, self.compress_stride = compress_block, compress_stride
        self.select_block, self.selected_blocks = select_block, selected_blocks
        self.compress_key = Compression(spec, block=compress_block, stride=compress_stride)
        self.compress_value = Compression(spec, block=compress_block, stride=compress_stride)
        own = self.sinks is not None
        self.window = WindowedAttention(spec, window=window, sinks=own, softcap=self.softcap)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        (B, H, T, _), K = q.shape, k.shape[1]
        (q_c, q_s, q_w), (k_c, k_s, k_w), (v_c, v_s, v_w) = (self._parts(x) for x in (q, k, v))
        there = torch.ones(B, T, dtype=torch.bool, device=q.device) if key_padding_mask is None else ~key_padding_mask
        k_c, v_c = self.compress_key(k_c, there), self.compress_value(v_c, there)
        gathered = K * self.selected_blocks * self.select_block * (k_s.shape[-1] + v_s.shape[-1])
        rows = max(1, SLICE // (B * (H * k_c.shape[2] + gathered)))
        parts = []
        for start in range(0, T, rows):
            stop = min(start + rows, T)
            positions = torch.arange(start, stop, device=q.device)
            queries = q_c[:, :, start:stop], q_s[:, :, start:stop]
            reach = stop if self.causal else T
            given = *queries, k_c, v_c, k_s, v_s, self.sinks, positions, there, reach
            parts.append(recomputed(self._attend_slice, *given))
        return torch.cat([torch.cat(parts, dim=2), self.window(q_w, k_w, v_w, key_padding_mask)], dim=-1)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        _, q_w = self._parts(q)[1:]
        _, k_w = self._parts(k)[1:]
        return self._selected(q, k, positions) | self.window.visited(q_w, k_w, positions)

    def scores(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        """Those of the selected branch."""
        return scores_of(self._parts(q)[1], self._parts(k)[1], positions)

    def weights(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        """The mean of the weights in the selected branch and in the window."""
        q_w, k_w = self._parts(q)[2], self._parts(k)[2]
        scores = bounded(self.scores(q, k, positions), self.softcap)
        scores = scores.masked_fill(~self._selected(q, k, positions), float("-inf"))
        return (softmax_of(scores, by_query(self.sinks)) + self.window.weights(q_w, k_w, positions)) / 2

    @staticmethod
    def _parts(x: Tensor) -> tuple[Tensor, ...]:
        """The branches' shares of queries, keys, values or output, in the order of `BRANCHES`."""
        return x.chunk(len(BRANCHES), dim=-1)

    def _attend_slice(
        self, q_c: Tensor, q_s: Tensor, k_c: Tensor, v_c: Tensor, k_s: Tensor, v_s: Tensor, sinks: Tensor | None,
        positions: Tensor, there: Tensor, reach: int,
    ) -> Tensor:  # fmt: skip
        """The compressed and the selected branch for the queries at `positions`, which see no token from `reach` on."""
        seen = self.compress_key.seen(positions, there, self.causal)
        if self.causal:
            n = max(1, (reach - self.compress_block) // self.compress_stride + 1)
            k_c, v_c, seen = k_c[:, :, :n], v_c[:, :, :n], seen[..., :n]
        compressed = softmax_attention(q_c, k_c, v_c, mask=seen, sinks=by_query(sinks), softcap=self.softcap)
        k_s, v_s, there = k_s[:, :, :reach], v_s[:, :, :reach], there[:, :reach]
        chosen = self._choose(q_c, k_c, sinks, seen, positions, there)
        last = positions if self.causal else None
        selected = selected_attention(
            q_s, k_s, v_s, chosen, self.select_block, self.selected_blocks, there, last, sinks, self.softcap
        )
        return torch.cat([compressed, selected], dim=-1)

    @torch.no_grad()
    def _choose(
        self, q_c: Tensor, k_c: Tensor, sinks: Tensor | None, seen: Tensor, positions: Tensor, there: Tensor
    ) -> Tensor:
        """The blocks that queries (B, H, S, D) at `positions` select: (B, K, S, J)."""
        block, H, K = self.select_block, q_c.shape[1], k_c.shape[1]
        blocks = -(-there.shape[1] // block)
        with without_autocast(q_c.device):
            exact = torch.promote_types(q_c.dtype, torch.float32)
            scores = q_c.to(exact) @ repeat_heads(k_c, H).to(exact).transpose(-1, -2) * q_c.shape[-1] ** -0.5
            scores = bounded(scores, self.softcap).masked_fill(~seen, float("-inf"))
            share = softmax_of(scores, by_query(sinks)).nan_to_num(0.0)
            importance = self.compress_key.shares_of(share.unflatten(1, (K, H // K)).sum(2), block, blocks)
        index, own = torch.arange(blocks, device=q_c.device), positions[:, None] // block
        always = (index == 0) | (index == own) | (index == own - 1)
        some = pad(there, (0, blocks * block - there.shape[1])).unflatten(1, (blocks, block)).any(-1)[:, None, None, :]
        if self.causal:
            some = some & (index <= own)
        else:
            always = always | (index == own + 1)
        return highest(importance.masked_fill(always, float("inf")), some, self.selected_blocks)

    def _selected(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        """(B, H, S, T): the tokens that the selected branch sees of a sequence without padding."""
        q_c, k_c = self._parts(q)[0], self._parts(k)[0]
        T = k.shape[2]
        there = torch.ones(len(k), T, dtype=torch.bool, device=k.device)
        seen = self.compress_key.seen(positions, there, self.causal)
        chosen = self._choose(q_c[:, :, positions], self.compress_key(k_c, there), self.sinks, seen, positions, there)
        tokens = repeat_heads(tokens_of(chosen, self.select_block, T), q.shape[1])
        return tokens & (torch.arange(T, device=k.device) <= positions[:, None]) if self.causal else tokens
