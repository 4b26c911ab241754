"""One softmax over the keys of chosen blocks and over a window (`ablab.model.attention.selected`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ablab.model.attention.base import (
    by_query,
    scores_of,
    softmax_of,
)
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.choosing import block_divergence
from ablab.model.attention.dense import at_once, recomputed, softmax_attention
from ablab.model.attention.flex.call import wanted
from ablab.model.attention.flex.choosing import FlexChoosingCore
from ablab.model.attention.gathered import (
    Gathered,
    gathered_attention,
    gathered_index,
    gathered_values,
    gathered_weights,
    listed,
    with_window,
)
from ablab.model.attention.kernel import working_dtype
from ablab.model.attention.picked import picked_attention, places
from ablab.model.attention.routed import routed_attention, routes
from ablab.model.attention.selected_cache import SelectedCache
from ablab.model.attention.selection import means
from ablab.model.draws import dropout

SLICE = 2**22  # scores, or elements of gathered keys and values, that are there at one time
# Where there are so many times more blocks than a query sees, what it sees is brought to it; else the rest is hidden.
# Single keys are gathered for each query, which pays later, and without a backward pass hardly ever.
ROUTE_FROM, GATHER_FROM = 8, 32
# FlexAttention computes what it hides so fast that bringing queries to blocks, in many small steps, pays later.
FLEX_BELOW = 32


class SelectedCore(FlexChoosingCore):
    """One softmax over the keys of chosen blocks, and a window.

    With an index the heads choose together, by `index_scores` of the mean of each block's index keys. Without, each
    head of keys chooses for the query heads that it serves, by `pooled_scores`. The choice has no gradient. An index
    learns as that of `ablab.model.attention.dsa` does, over the chosen blocks that have a score, from what the
    attention gives to their tokens. In its warm-up a query sees all keys, and the index learns from all blocks.

    Where few blocks of many are chosen, queries are brought to them (`ablab.model.attention.routed`), and the time of
    the attention grows as T; single keys are gathered for each query then, in training. Else the others are hidden, and
    a slice of queries is attended at a time, and again in the backward pass where there are many scores. Time of the
    choice grows as T^2 / block. Memory grows as T.

    Args:
        selection: of blocks.
        learning: what an index learns by; None: there is none.
    """

    drops_weights = True

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None, index: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """`AttentionCore.forward` with the index of the same tokens, if any (`ablab.model.attention.indexer.Index`)."""
        there = torch.ones(len(q), q.shape[2], dtype=torch.bool, device=q.device)
        there = there if key_padding_mask is None else ~key_padding_mask
        out, lost = self._attend_all(q, k, v, there, *index)
        if self.learning is not None and torch.is_grad_enabled():
            self.learning.keep(lost, key_padding_mask)
        return dropout(self, out, self.dropout) if self.dropout_on == "output" else out

    def extend(
        self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step, index: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """`AttentionCore.extend`, with the index of the new tokens, if any, and a `SelectedCache`."""
        kept = cast(SelectedCache, cache)
        pooled = kept.extend(k, v, step, index[2] if index else None)
        if step.first:
            there = torch.ones(len(q), q.shape[2], dtype=torch.bool, device=q.device)
            return self._attend_all(q, k, v, there if step.there is None else step.there, *index)[0]
        rows = max(1, at_once(SLICE, q.device) // (len(q) * q.shape[1] * step.total))
        parts = []
        for start in range(0, q.shape[2], rows):
            own = slice(start, start + rows)
            given = q[:, :, own], pooled, places(step)[..., own], step.total
            chosen = self.chosen_past(*given, *(x[:, :, own] for x in index[:2]))
            parts.append(picked_attention(self, given[0], kept.tokens, chosen, given[2], self.selection, step.total))
        return torch.cat(parts, 2)

    def _attend_all(self, q: Tensor, k: Tensor, v: Tensor, there: Tensor, *index: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and what the index loses, (B, T)."""
        times = -(-q.shape[2] // self.selection.block) / self.selection.slots
        if wanted(q) and (times < FLEX_BELOW or self.selection.block == 1) and not self._dropped():
            return self._by_flex(q, k, v, there, *index, warming=self._warming())
        if self.selection.block > 1 and times >= ROUTE_FROM and not self._warming():
            return self._route(q, k, v, there, *index)
        if self.selection.block > 1 or times < GATHER_FROM or self._warming() or not torch.is_grad_enabled():
            return self._in_slices(self._hide, q.shape[1] * q.shape[2], q, k, v, there, *index)
        k, v = k.contiguous(), v.contiguous()
        held = k.shape[1] * self.selection.slots * (k.shape[-1] + v.shape[-1])
        return self._in_slices(self._gather, held, q, k, v, there, *index)

    def _in_slices(
        self, attend: Callable[..., tuple[Tensor, Tensor]], held: int, q: Tensor, k: Tensor, v: Tensor, there: Tensor,
        *index: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """What `attend` makes of slices of queries, each of which holds so many elements at one time."""
        (B, H, T, _), block = q.shape, self.selection.block
        pooled = means(index[2] if index else k.detach(), there, block)
        J = pooled.shape[2]
        rows = max(1, at_once(SLICE, q.device) // (B * (held + (index[0].shape[1] if index else H) * J)))
        parts = []
        for start in range(0, T, rows):
            positions = torch.arange(start, min(start + rows, T), device=q.device)
            n = -(-min(start + rows, T) // block) if self.causal else J
            own = (index[0][:, :, start : start + rows], index[1][:, :, start : start + rows]) if index else ()
            parts.append(attend(q[:, :, start : start + rows], k, v, there, positions, pooled[:, :, :n], *own))
        first, second = zip(*parts, strict=True)
        return torch.cat(first, 2), torch.cat(second, 2 if second[0].ndim == 4 else 1)

    def _route(self, q: Tensor, k: Tensor, v: Tensor, there: Tensor, *index: Tensor) -> tuple[Tensor, Tensor]:
        """`_attend_all` by bringing queries to the blocks that they chose."""
        (B, _, T, _), K, block = q.shape, k.shape[1], self.selection.block
        J = -(-T // block)
        with torch.no_grad():
            places, found = self._in_slices(self._pick, 0, q, k, v, there, *index)
        every, real = (x.expand(-1, K, -1, -1).flatten(0, 1) for x in (places, found))
        out, shares = routed_attention(
            q, k, v, there, routes(every, real, count=J, size=block), block=block, window=self.selection.window,
            near=self.selection.near, causal=self.causal, softcap=self.softcap, sinks=self.sinks,
            dropout=self._dropped(), at_once=at_once(SLICE, q.device),
        )  # fmt: skip
        if not index or not torch.is_grad_enabled():
            return out, q.new_zeros(B, T)
        past = (places + 1) * block <= torch.arange(1, T + 1, device=q.device)[:, None]
        scored = found & past if self.causal else found
        pooled = means(index[2], there, block)
        return out, block_divergence(gathered_index(index[0], index[1], pooled, places), shares, scored[:, 0])

    def _pick(
        self, q: Tensor, k: Tensor, v: Tensor, there: Tensor, positions: Tensor, pooled: Tensor, *index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The places of the blocks that a slice of queries chooses, (B, G, S, m), and whether each is chosen."""
        candidates, scores = self._scored(q, there, positions, pooled, *index)
        return listed(self.selection.chosen(scores, candidates), self.selection.count)

    def _hide(
        self, q: Tensor, k: Tensor, v: Tensor, there: Tensor, positions: Tensor, pooled: Tensor, *index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attend a slice of queries by hiding what is not chosen: the output, and what the index loses (B, S)."""
        reach = pooled.shape[2] * self.selection.block
        given = q, k[:, :, :reach], v[:, :, :reach], self.sinks, there[:, :reach], positions, pooled
        heads, (B, T) = q.shape[1] + (index[0].shape[1] if index else 0), there.shape
        return recomputed(
            self._attend_hidden, *given, self._warming(), *index, random=self._dropped() > 0, scores=B * heads * T * T
        )

    def _attend_hidden(
        self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, there: Tensor, positions: Tensor, pooled: Tensor,
        warming: bool, *index: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        candidates, scores = self._scored(q, there, positions, pooled, *index)
        chosen = candidates.allowed if warming else self.selection.chosen(scores, candidates)
        seen, sinks = self._tokens(chosen, positions, there, q.shape[1]), by_query(sinks)
        if not index or not torch.is_grad_enabled():
            out = softmax_attention(q, k, v, mask=seen, dropout=self._dropped(), sinks=sinks, softcap=self.softcap)
            return out, q.new_zeros(len(q), len(positions))
        every = torch.arange(len(positions), device=q.device)
        products = scores_of(q, k, every, softcap=self.softcap).to(working_dtype(q))
        weights = softmax_of(products, sinks, seen)
        lost = block_divergence(scores[:, 0], self._shares(weights, positions), (chosen & candidates.scored)[:, 0])
        dropped = nn.functional.dropout(weights, self._dropped()).to(v.dtype)
        return (dropped.unflatten(1, (v.shape[1], -1)) @ v.unsqueeze(2)).flatten(1, 2), lost

    def _gather(
        self, q: Tensor, k: Tensor, v: Tensor, there: Tensor, positions: Tensor, pooled: Tensor, *index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`_hide` by gathering the single keys that are chosen."""
        with torch.no_grad():  # and not again in the backward pass
            candidates, scores = self._scored(q, there, positions, pooled, *index)
            chosen = self.selection.chosen(scores, candidates)
            given, learns = with_window(chosen, self.selection, positions, there)
        return recomputed(
            self._attend_gathered, q, k, v, self.sinks, *given, learns, pooled, *index, random=self._dropped() > 0
        )

    def _attend_gathered(
        self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, keys: Tensor, seen: Tensor, learns: Tensor,
        pooled: Tensor, *index: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        given, n, softcap = Gathered(keys, seen), learns.shape[-1], self.softcap
        if not index or not torch.is_grad_enabled():
            out = gathered_attention(q, k, v, given, dropout=self._dropped(), sinks=sinks, softcap=softcap)
            return out, q.new_zeros(q.shape[0], q.shape[2])
        weights = gathered_weights(q, k, given, sinks=sinks, softcap=softcap)
        lost = block_divergence(
            gathered_index(index[0], index[1], pooled, keys[..., :n]), weights[..., :n], learns[:, 0]
        )
        return gathered_values(nn.functional.dropout(weights, self._dropped()), v, given), lost

    def _warming(self) -> bool:
        return self.training and self.learning is not None and self.learning.warming

    def _dropped(self) -> float:
        return self.dropout if self.training and self.dropout_on == "weights" else 0.0
