"""Attention by a fixed pattern of blocks: local, strided, global and random.

The patterns are those of Child et al. 2019 (Generating Long Sequences with Sparse Transformers, section 4.3, strided
and fixed), Beltagy et al. 2020 (Longformer, section 3.1, global) and Zaheer et al. 2020 (BigBird, section 2, random),
all counted in blocks, as Child et al. (section 5.5) and BigBird (appendix D) compute them. Deviation: one softmax over
the union of the patterns in every head, where Child et al. give different patterns to different heads or layers.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import pad

from ablab.model.attention.base import DropoutPlace, Switches, by_query, self_only_if_alone
from ablab.model.attention.by_position import PositionalCore, attend_to
from ablab.model.attention.cache import Step
from ablab.model.attention.dense import DENSE_BELOW, dense_attention, recomputed, softmax_attention
from ablab.model.attention.flex.call import wanted
from ablab.model.attention.flex.masks import kept
from ablab.model.attention.flex.pattern import Pattern, pattern_of
from ablab.model.attention.flex.rule import Scoring, with_own, with_sinks
from ablab.model.attention.picked import GATHER_FROM
from ablab.model.initialisation import keyed_generator
from ablab.model.spec import LayerSpec, require_at_least

SLICE = 2**21  # elements of keys and values that are gathered at one time


class BlockSparseAttention(PositionalCore):
    """A query sees all keys of the blocks that its own block sees; where causal, those up to its own position.

    Time grows as T times the keys seen, hidden ones of a visited block included. Memory grows as T: a few blocks of
    queries are attended at a time, and again in the backward pass.

    Args:
        block: tokens per block.
        local_blocks: the block of the query and those before it, where not causal also as many after it; at least 1.
        stride: every `stride`-th block besides; 0 for none, None for about the square root of the number of blocks
            in the longest sequence of the training (Child et al. 2019, section 4.3).
        fixed: the blocks of the stride are the last of every `stride` from the start of the sequence, the same for all
            queries (Child et al., "fixed"), rather than counted back from the query's own ("strided").
        global_blocks: the first blocks, seen by every query and seeing every key (earlier ones only, where causal).
        random_blocks: drawn for each block of queries from those that it may see, by the run's seed, once; blocks
            already seen, or beyond the end of a shorter sequence, may be among them. Where it is made for longer
            sequences than those of the training, what these have remains.
    """

    by_head = True
    drops_weights = True
    random: Tensor

    def __init__(
        self,
        spec: LayerSpec,
        *,
        block: int,
        local_blocks: int = 1,
        stride: int | None = None,
        fixed: bool = False,
        global_blocks: int = 0,
        random_blocks: int = 0,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        share_qk: bool = False,
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__(spec, dropout=dropout, dropout_on=dropout_on, share_qk=share_qk, **switches)
        require_at_least(1, "block", block)
        require_at_least(1, "local_blocks", local_blocks)
        require_at_least(0, "global_blocks", global_blocks)
        require_at_least(0, "random_blocks", random_blocks)
        blocks, learned = (math.ceil(length / block) for length in (spec.max_length, spec.learned_from))
        # Of the longest sequence: what a query sees must not depend on the length of the one that it stands in.
        stride = max(1, round(math.sqrt(learned))) if stride is None else stride
        require_at_least(0, "stride", stride)
        self.block, self.local_blocks, self.stride, self.fixed = block, local_blocks, stride, fixed
        self.global_blocks = global_blocks
        generator = keyed_generator("block_sparse", spec.seed, spec.layer_index)
        share = torch.rand(blocks, random_blocks, generator=generator, device="cpu", dtype=torch.float64)
        choices = torch.arange(1, blocks + 1, device="cpu")[:, None]
        choices = choices if spec.causal else choices.clamp(min=learned)
        drawn = (share * choices).long().to(torch.get_default_device())
        self.register_buffer("random", drawn, persistent=False)
        self._patterns: dict[tuple[int, torch.device], Pattern] = {}  # one for each length that has been met

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        own, block = query // self.block, key // self.block
        before = own - block
        seen = (before < self.local_blocks) | (block < self.global_blocks)
        if self.stride:
            seen = seen | ((block % self.stride == self.stride - 1) if self.fixed else (before % self.stride == 0))
        drawn = self.random[own.clamp(max=len(self.random) - 1)]  # (..., random_blocks)
        for each in drawn.unbind(-1):
            seen = seen | (block == each)
        return seen

    def keeps(self, length: int) -> tuple[int, int]:
        """All, unless only blocks nearby and the first ones are seen."""
        if self.stride or self.random.shape[1]:
            return length, 0
        first = self.global_blocks * self.block
        return min(length, first + self.local_blocks * self.block), min(length, first)

    def attend_past(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, step: Step) -> Tensor:
        """Where a query sees few of all keys, they are gathered."""
        own = step.positions[:, :1].clamp(max=step.total - 1)  # where there is no token it may lie behind them
        n = -(-step.total // self.block)
        everything = positions.dim() == 1 and len(positions) == step.total
        slots = self._blocks_of(own // self.block, n, n) if q.shape[2] == 1 and everything else None
        if slots is None or slots.shape[1] * self.block * GATHER_FROM > step.total:
            return super().attend_past(q, k, v, positions, step)
        keys = (slots.unsqueeze(-1) * self.block + torch.arange(self.block, device=q.device)).flatten(1)  # (B, M)
        places = keys.clamp(max=step.total - 1)[:, None, :, None].expand(-1, k.shape[1], -1, -1)
        k, v = (x.gather(2, places.expand(-1, -1, -1, x.shape[-1])) for x in (k, v))
        at, keys = own[:, None, :, None], keys[:, None, None]
        return attend_to(self, q, k, v, keys <= at, at, keys)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        T = q.shape[2]
        if T < DENSE_BELOW:
            positions = torch.arange(T, device=q.device)
            mask = self._mask(positions, T)
            if self.share_qk:
                mask = mask & (positions[:, None] != positions)
            return dense_attention(
                q, k, v, mask, key_padding_mask,
                own_if_alone=self.share_qk, dropout=self._dropped(), sinks=self.sinks, softcap=self.softcap,
            )  # fmt: skip
        if wanted(q) and not self._dropped():
            return self._by_flex(q, k, v, key_padding_mask)
        missing = -T % self.block
        # With heads behind positions a block is contiguous in memory, as it is where heads are a view of a projection.
        queries, keys, values = (pad(x.transpose(1, 2), (0, 0, 0, 0, 0, missing)) for x in (q, k, v))
        padding = torch.arange(T + missing, device=q.device).expand(len(q), -1) >= T
        if key_padding_mask is not None:
            padding = padding | pad(key_padding_mask, (0, missing))
        outs = [self._attend_sequence(*sequence) for sequence in zip(queries, keys, values, padding, strict=True)]
        return torch.stack(outs)[:, :T].transpose(1, 2)

    def _by_flex(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        scoring = Scoring(softcap=self.softcap)
        out, lse = pattern_of(self, q.shape[2], q.device).attend(q, k, v, key_padding_mask, scoring)
        if self.share_qk:
            out, lse = with_own(out, lse, q, k, v, key_padding_mask, self.softcap)
        return with_sinks(out, lse, self.sinks)

    def pattern(self, length: int, device: torch.device) -> Pattern:
        """What a sequence of so many tokens is attended by on `device`, made once."""
        if (length, device) not in self._patterns:
            with kept():
                table, how = self._table(-(-length // self.block)).to(device), (self.causal, not self.share_qk)
                self._patterns[length, device] = Pattern.of(table, self.block, *how, length)
        return self._patterns[length, device]

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        mask = self._mask(positions, k.shape[2])
        return self_only_if_alone(mask, positions) if self.share_qk else mask

    def _attend_sequence(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        """q (T, H, D), k (T, K, D), v (T, K, Dv), padding (T,), T a multiple of the block -> (T, H, Dv)."""
        n, c = len(q) // self.block, self.block
        elements = c * (k[0].numel() + v[0].numel())  # of one block of keys and values
        parts = []
        for start, end in self._segments(n):
            rows = max(1, SLICE // (elements * self._slots(end - 1, end, n).shape[1]))
            for first in range(start, end, rows):
                last = min(first + rows, end)
                slots = self._slots(first, last, n)
                given = (q[first * c : last * c], k, v, self.sinks, padding, first, slots)
                parts.append(recomputed(self._attend_blocks, *given, random=self._dropped() > 0))
        return torch.cat(parts)

    def _attend_blocks(
        self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, padding: Tensor, first: int, slots: Tensor
    ) -> Tensor:
        """R blocks of queries from block `first` on, which see the blocks `slots` (R, M): (R * block, H, Dv)."""
        c, n = self.block, len(k) // self.block
        found = slots.clamp(max=n - 1)

        def gathered(x: Tensor) -> Tensor:  # (T, K, D) -> (R, K, M * block, D)
            blocks = x.unflatten(0, (n, c)).index_select(0, found.flatten())
            found_blocks: Tensor = blocks.view(len(slots), -1, *x.shape[1:]).transpose(1, 2)
            return found_blocks

        within = torch.arange(c, device=q.device)
        key = (
            (slots.unsqueeze(-1) * c + within).flatten(1).unsqueeze(1)
        )  # (R, 1, M * block), too large where no block is
        query = (torch.arange(first, first + len(slots), device=q.device)[:, None] * c + within).unsqueeze(-1)
        there = (key < n * c) & ~padding[key.clamp(max=n * c - 1)]
        mask = there & (key <= query) if self.causal else there.expand(-1, c, -1)
        if self.share_qk:
            own = key == query
            others = mask & ~own
            mask = others | (mask & own & ~others.any(-1, keepdim=True))
        out = softmax_attention(
            q.unflatten(0, (-1, c)).transpose(1, 2),
            gathered(k),
            gathered(v),
            mask=mask.unsqueeze(1),
            dropout=self._dropped(),
            sinks=by_query(sinks),
            softcap=self.softcap,
        )
        return out.transpose(1, 2).flatten(0, 1)

    def _segments(self, n: int) -> list[tuple[int, int]]:
        """Split n blocks of queries into those that see every block, if there are any, and the others."""
        everything = 0 if self.causal else min(self.global_blocks, n)
        return [(start, end) for start, end in ((0, everything), (everything, n)) if start < end]

    def _slots(self, first: int, last: int, n: int) -> Tensor:
        """The blocks, of n, that blocks first..last-1 of one segment see: (last - first, M), in order, n for none."""
        device = self.random.device
        if not self.causal and last <= self.global_blocks:
            return torch.arange(n, device=device).expand(last - first, n)
        own = torch.arange(first, last, device=device)[:, None]
        return self._blocks_of(own, last if self.causal else n, n)

    def _blocks_of(self, own: Tensor, reach: int, n: int) -> Tensor:
        """`_slots` of blocks `own` (R, 1), which see none from `reach` on."""
        device = own.device
        local = own + torch.arange(1 - self.local_blocks, 1 if self.causal else self.local_blocks, device=device)
        seen = [local, torch.arange(min(self.global_blocks, n), device=device).expand(len(own), -1)]
        if self.stride:
            phase = self.stride - 1 if self.fixed else own % self.stride
            seen.append((phase + torch.arange(0, reach, self.stride, device=device)).expand(len(own), -1))
        seen.append(self.random[own.squeeze(1)])
        slots = torch.cat(seen, dim=1)
        outside = (slots < 0) | (slots >= n) | ((slots > own) if self.causal else False)
        slots = slots.masked_fill(outside, n).sort(-1).values
        repeated = pad(slots[:, 1:] == slots[:, :-1], (1, 0))
        return slots.masked_fill(repeated, n)

    def _mask(self, positions: Tensor, length: int) -> Tensor:
        """(S, length): what the queries at `positions` see, their own keys included."""
        keys = torch.arange(length, device=positions.device)
        mask = self._table(math.ceil(length / self.block))[positions // self.block][:, keys // self.block]
        return mask & (keys <= positions[:, None]) if self.causal else mask

    def _table(self, n: int) -> Tensor:
        """(n, n): which of n blocks see which."""
        rows = []
        for start, end in self._segments(n):
            blocks = torch.zeros(end - start, n + 1, dtype=torch.bool, device=self.random.device)
            rows.append(blocks.scatter(1, self._slots(start, end, n), True))
        return torch.cat(rows)[:, :n]

    def _dropped(self) -> float:
        return self.dropout if self.training and self.dropout_on == "weights" else 0.0
