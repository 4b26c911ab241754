"""The three branches of native sparse attention (Yuan et al. 2025, arXiv 2502.11089, section 3)."""

from __future__ import annotations

from typing import Unpack, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from ablab.model.attention.base import (
    AttentionCore,
    DropoutPlace,
    Switches,
    bounded,
    by_query,
    products_of,
    repeat_heads,
    scores_of,
    softmax_of,
)
from ablab.model.attention.blocks import Compression, selected_attention, tokens_of
from ablab.model.attention.cache import KeyValueCache, LayerCache, Step
from ablab.model.attention.dense import highest, recomputed, softmax_attention, unless_counted
from ablab.model.attention.flex.call import wanted
from ablab.model.attention.flex.masks import EVERYTHING, Past, Rule, shared
from ablab.model.attention.flex.native import native_blocks
from ablab.model.attention.kernel import without_autocast
from ablab.model.attention.nsa_cache import NativeSparseCache
from ablab.model.attention.picked import grouped_attention, picked_attention, places
from ablab.model.attention.selection import Selection
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.spec import LayerSpec, require_at_least

SLICE = 2**22  # scores, or elements of gathered keys and values, that are there at one time
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
    of queries is attended at a time, and again in the backward pass where there is much to keep.

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
        past = Past(block=compress_block, stride=compress_stride)
        self.past: Rule = shared(past) if spec.causal else EVERYTHING
        own = self.sinks is not None
        self.window = WindowedAttention(spec, window=window, sinks=own, softcap=self.softcap)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        (q_c, q_s, q_w), (k_c, k_s, k_w), (v_c, v_s, v_w) = (self._parts(x) for x in (q, k, v))
        there = torch.ones(len(q), q.shape[2], dtype=torch.bool, device=q.device)
        there = there if key_padding_mask is None else ~key_padding_mask
        k_c, v_c = self.compress_key(k_c, there), self.compress_value(v_c, there)
        blocks = self._attend_blocks(q_c, q_s, k_c, v_c, k_s, v_s, there)
        return torch.cat([blocks, self.window(q_w, k_w, v_w, key_padding_mask)], dim=-1)

    def new_cache(self, batch: int, capacity: int, *, heads: int, size: int, like: Tensor) -> LayerCache | None:
        if not self.causal:
            return None
        return NativeSparseCache(batch, capacity, core=self, heads=heads, size=size, like=like)

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        if not self.causal:
            return None
        return NativeSparseCache.numbers(length, core=self, heads=heads, size=size)

    def extend(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step) -> Tensor:
        kept = cast(NativeSparseCache, cache)
        (q_c, q_s, q_w), (k_c, k_s, k_w), (v_c, v_s, v_w) = (self._parts(x) for x in (q, k, v))
        window = self.window.extend(q_w, k_w, v_w, kept.window, step)
        kept.tokens.extend(k_s, v_s, step)
        if step.first:
            there = torch.ones(len(q), q.shape[2], dtype=torch.bool, device=q.device)
            there = there if step.there is None else step.there
            compressed = self.compress_key(k_c, there), self.compress_value(v_c, there)
            kept.begin(k_c, v_c, *compressed, step)
            return torch.cat([self._attend_blocks(q_c, q_s, *compressed, k_s, v_s, there), window], dim=-1)
        compressed = kept.extend(k_c, v_c, step)
        rows = max(1, SLICE // (len(q) * q.shape[1] * step.total))
        parts = []
        for start in range(0, q.shape[2], rows):
            own = slice(start, start + rows)
            parts.append(
                self._attend_past(
                    q_c[:, :, own], q_s[:, :, own], *compressed, places(step)[..., own], kept.tokens, step.total
                )
            )
        return torch.cat([torch.cat(parts, 2), window], dim=-1)

    def _attend_past(
        self, q_c: Tensor, q_s: Tensor, k_c: Tensor, v_c: Tensor, positions: Tensor, cache: KeyValueCache, total: int
    ) -> Tensor:
        """`_attend_slice` for new tokens, at positions (S,) or (B, 1, S), of `total` that are kept."""
        ends = torch.arange(k_c.shape[2], device=q_c.device) * self.compress_stride + self.compress_block - 1
        seen = (ends <= positions.unsqueeze(-1)).expand(len(q_c), 1, -1, -1)
        compressed = grouped_attention(self, q_c, k_c, v_c, seen)
        there = torch.ones(len(q_c), total, dtype=torch.bool, device=q_c.device)
        chosen = self.choose(q_c, k_c, self.sinks, seen, positions, there)
        selected = picked_attention(self, q_s, cache, chosen, positions, self._selection, total)
        return torch.cat([compressed, selected], dim=-1)

    @property
    def _selection(self) -> Selection:
        return Selection(
            block=self.select_block, count=self.selected_blocks, first=1, local=2, window=0, causal=self.causal
        )

    def _attend_blocks(
        self, q_c: Tensor, q_s: Tensor, k_c: Tensor, v_c: Tensor, k_s: Tensor, v_s: Tensor, there: Tensor
    ) -> Tensor:
        """The compressed and the selected branch."""
        if wanted(q_c):
            return native_blocks(self, q_c, q_s, k_c, v_c, k_s, v_s, there)
        (B, H, T, _), K = q_c.shape, k_c.shape[1]
        gathered = K * self.selected_blocks * self.select_block * (k_s.shape[-1] + v_s.shape[-1])
        held = B * (H * k_c.shape[2] + gathered)  # of a query
        rows = max(1, unless_counted(SLICE, q_c.device) // held)
        parts = []
        for start in range(0, T, rows):
            stop = min(start + rows, T)
            positions = torch.arange(start, stop, device=q_c.device)
            queries = q_c[:, :, start:stop], q_s[:, :, start:stop]
            reach = stop if self.causal else T
            given = *queries, k_c, v_c, k_s, v_s, self.sinks, positions, there, reach
            parts.append(recomputed(self._attend_slice, *given, scores=held * T))
        return torch.cat(parts, dim=2)

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
        selected = softmax_of(scores, by_query(self.sinks), self._selected(q, k, positions))
        return (selected + self.window.weights(q_w, k_w, positions)) / 2

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
        chosen = self.choose(q_c, k_c, sinks, seen, positions, there)
        last = positions if self.causal else None
        selected = selected_attention(
            q_s, k_s, v_s, chosen, self.select_block, self.selected_blocks, there, last, sinks, self.softcap
        )
        return torch.cat([compressed, selected], dim=-1)

    @torch.no_grad()
    def choose(
        self, q_c: Tensor, k_c: Tensor, sinks: Tensor | None, seen: Tensor, positions: Tensor, there: Tensor
    ) -> Tensor:
        """The blocks that queries (B, H, S, D) at `positions`, (S,) or (B, 1, S), select: (B, K, S, J)."""
        block, H, K = self.select_block, q_c.shape[1], k_c.shape[1]
        blocks = -(-there.shape[1] // block)
        with without_autocast(q_c.device):
            exact = torch.promote_types(q_c.dtype, torch.float32)
            scores = products_of(q_c.to(exact), k_c.to(exact)) * q_c.shape[-1] ** -0.5
            share = softmax_of(bounded(scores, self.softcap), by_query(sinks), seen).nan_to_num(0.0)
            importance = self.compress_key.shares_of(share.unflatten(1, (K, H // K)).sum(2), block, blocks)
        index, own = torch.arange(blocks, device=q_c.device), positions.unsqueeze(-1) // block
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
        chosen = self.choose(q_c[:, :, positions], self.compress_key(k_c, there), self.sinks, seen, positions, there)
        tokens = repeat_heads(tokens_of(chosen, self.select_block, T), q.shape[1])
        return tokens & (torch.arange(T, device=k.device) <= positions[:, None]) if self.causal else tokens
