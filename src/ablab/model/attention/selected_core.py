"""One softmax over the keys of chosen blocks and over a window (`ablab.model.attention.selected`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack, cast

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad

from ablab.model.attention.base import (
    AttentionCore,
    DropoutPlace,
    Switches,
    by_query,
    repeat_heads,
    scores_of,
    softmax_of,
)
from ablab.model.attention.blocks import tokens_of
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.dense import at_once, recomputed, softmax_attention
from ablab.model.attention.gathered import (
    Gathered,
    gathered_attention,
    gathered_index,
    gathered_values,
    gathered_weights,
    listed,
    with_window,
)
from ablab.model.attention.indexer import IndexLearning, divergence, index_scores
from ablab.model.attention.kernel import working_dtype
from ablab.model.attention.picked import picked_attention, places
from ablab.model.attention.routed import routed_attention, routes
from ablab.model.attention.selected_cache import SelectedCache
from ablab.model.attention.selection import Candidates, Selection, in_blocks, means, pooled_scores
from ablab.model.spec import LayerSpec

SLICE = 2**22  # scores, or elements of gathered keys and values, that are there at one time
# Where there are so many times more blocks than a query sees, what it sees is brought to it; else the rest is hidden.
# Single keys are gathered for each query, which pays later, and without a backward pass hardly ever.
ROUTE_FROM, GATHER_FROM = 8, 32


class SelectedCore(AttentionCore):
    """One softmax over the keys of chosen blocks, and a window.

    With an index the heads choose together, by `index_scores` of the mean of each block's index keys. Without, each
    head of keys chooses for the query heads that it serves, by `pooled_scores`. The choice has no gradient. An index
    learns as that of `ablab.model.attention.dsa` does, over the chosen blocks that have a score, from what the
    attention gives to their tokens. In its warm-up a query sees all keys, and the index learns from all blocks.

    Where few blocks of many are chosen, queries are brought to them (`ablab.model.attention.routed`), and the time of
    the attention grows as T; single keys are gathered for each query then, in training. Else the others are hidden, and
    a slice of queries is attended at a time, and again in the backward pass. Time of the choice grows as T^2 / block.
    Memory grows as T.

    Args:
        selection: of blocks.
        learning: what an index learns by; None: there is none.
    """

    drops_weights = True

    def __init__(
        self,
        spec: LayerSpec,
        *,
        selection: Selection,
        learning: IndexLearning | None,
        dropout: float,
        dropout_on: DropoutPlace,
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__(spec, dropout=dropout, dropout_on=dropout_on, **switches)
        self.selection, self.learning = selection, learning
        self.compares = ("index_recall", "index_recall_at_random", *(() if learning is None else ("index_loss",)))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None, index: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """`AttentionCore.forward` with the index of the same tokens, if any (`ablab.model.attention.indexer.Index`)."""
        there = torch.ones(len(q), q.shape[2], dtype=torch.bool, device=q.device)
        there = there if key_padding_mask is None else ~key_padding_mask
        out, lost = self._attend_all(q, k, v, there, *index)
        if self.learning is not None and torch.is_grad_enabled():
            self.learning.keep(lost, key_padding_mask)
        if self.dropout and self.dropout_on == "output":
            out = drop(out, self.dropout, self.training)
        return out

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

    def chosen_past(self, q: Tensor, pooled: Tensor, positions: Tensor, total: int, *index: Tensor) -> Tensor:
        """Mark the blocks that new tokens choose, (B, G, S, J), of the first `total` tokens.

        Args:
            q: (B, H, S, D), at `positions`, (S,) or (B, 1, S).
            pooled: (B, G, N, size), the mean keys, or index keys, of all blocks that are past.
            index: queries and weights of the new tokens' index, if any.
        """
        J, N = -(-total // self.selection.block), pooled.shape[2]
        candidates = self.selection.candidates(positions, q.new_ones(len(q), J, dtype=torch.bool))
        scores = self._scores(q, pooled, candidates.scored[..., :N], *index)
        return self.selection.chosen(pad(scores, (0, J - N)), candidates)

    def _attend_all(self, q: Tensor, k: Tensor, v: Tensor, there: Tensor, *index: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and what the index loses, (B, T)."""
        times = -(-q.shape[2] // self.selection.block) / self.selection.slots
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
        return out, _lost(gathered_index(index[0], index[1], pooled, places), shares, scored[:, 0])

    def _pick(
        self, q: Tensor, k: Tensor, v: Tensor, there: Tensor, positions: Tensor, pooled: Tensor, *index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The places of the blocks that a slice of queries chooses, (B, G, S, m), and whether each is chosen."""
        candidates, scores = self._scored(q, there, positions, pooled, *index)
        return listed(self.selection.chosen(scores, candidates), self.selection.count)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> Tensor:
        _, chosen, _ = self._choice(q, k, positions, *index)
        there = torch.ones(len(k), k.shape[2], dtype=torch.bool, device=k.device)
        return self._tokens(chosen, positions, there, q.shape[1])

    def weights(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> Tensor:
        scores = scores_of(q, k, positions, softcap=self.softcap)
        scores = scores.masked_fill(~self.visited(q, k, positions, *index), float("-inf"))
        return softmax_of(scores, by_query(self.sinks))

    def compared(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> dict[str, Tensor]:
        """`compares` for the queries at `positions` (S,), beside full attention: (B, S) each.

        Recall is about the blocks that are not chosen in any case, and 1 where there are no others.
        """
        candidates, chosen, scores = self._choice(q, k, positions, *index)
        keys = torch.arange(k.shape[2], device=k.device)
        full = scores_of(q, k, positions, softcap=self.softcap)
        if self.causal:
            full = full.masked_fill(keys > positions[:, None], float("-inf"))
        most = (
            self._shares(softmax_of(full, by_query(self.sinks)), positions).unflatten(1, (chosen.shape[1], -1)).sum(2)
        )
        best = self.selection.chosen(most, candidates)
        others = ~candidates.always
        count, open_ = (best & others).sum(-1), (candidates.allowed & others).sum(-1)
        found = ((best & chosen & others).sum(-1) / count.clamp(min=1)).masked_fill(count == 0, 1.0)
        chance = ((chosen & others).sum(-1) / open_.clamp(min=1)).masked_fill(count == 0, 1.0)
        told = {"index_recall": found.mean(1), "index_recall_at_random": chance.mean(1)}
        if self.learning is None:
            return told
        seen = (chosen & candidates.scored)[:, 0]
        shares = self._shares(self.weights(q, k, positions, *index), positions)
        return told | {"index_loss": _lost(scores[:, 0], shares, seen)}

    def _hide(
        self, q: Tensor, k: Tensor, v: Tensor, there: Tensor, positions: Tensor, pooled: Tensor, *index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attend a slice of queries by hiding what is not chosen: the output, and what the index loses (B, S)."""
        reach = pooled.shape[2] * self.selection.block
        given = q, k[:, :, :reach], v[:, :, :reach], self.sinks, there[:, :reach], positions, pooled
        return recomputed(self._attend_hidden, *given, self._warming(), *index, random=self._dropped() > 0)

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
        weights = softmax_of(products.masked_fill(~seen, float("-inf")), sinks)
        lost = _lost(scores[:, 0], self._shares(weights, positions), (chosen & candidates.scored)[:, 0])
        dropped = drop(weights, self._dropped()).to(v.dtype)
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
        lost = _lost(gathered_index(index[0], index[1], pooled, keys[..., :n]), weights[..., :n], learns[:, 0])
        return gathered_values(drop(weights, self._dropped()), v, given), lost

    def _scored(
        self, q: Tensor, there: Tensor, positions: Tensor, pooled: Tensor, *index: Tensor
    ) -> tuple[Candidates, Tensor]:
        """Blocks that the queries may choose, and the scores of all, (B, G, S, J)."""
        some = in_blocks(there, self.selection.block).any(-1)[:, : pooled.shape[2]]
        candidates = self.selection.candidates(positions, some)
        return candidates, self._scores(q, pooled, candidates.scored, *index)

    def _scores(self, q: Tensor, pooled: Tensor, scored: Tensor, *index: Tensor) -> Tensor:
        if index:
            return index_scores(index[0], index[1], pooled).unsqueeze(1)
        exact = torch.promote_types(pooled.dtype, torch.float32)
        return pooled_scores(q, pooled.to(exact), scored, self.softcap)

    def _choice(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> tuple[Candidates, Tensor, Tensor]:
        """What may be and what is chosen, and its scores, of queries at `positions` of sequences without padding."""
        there = torch.ones(len(k), k.shape[2], dtype=torch.bool, device=k.device)
        own = (index[0][:, :, positions], index[1][:, :, positions]) if index else ()
        pooled = means(index[2] if index else k, there, self.selection.block)
        candidates, scores = self._scored(q[:, :, positions], there, positions, pooled, *own)
        return candidates, self.selection.chosen(scores, candidates), scores

    def _tokens(self, chosen: Tensor, positions: Tensor, there: Tensor, heads: int) -> Tensor:
        """Blocks (B, G, S, J) -> the tokens that are seen, (B, 1 or H, S, T)."""
        if self.selection.block > 1 or self.selection.window:  # else they are what is chosen
            distance = positions[:, None] - torch.arange(there.shape[1], device=there.device)
            chosen = tokens_of(chosen, self.selection.block, there.shape[1])
            chosen = chosen & (distance >= 0) if self.causal else chosen
            chosen = (chosen | self.selection.near(distance)) & there[:, None, None, :]
        return chosen if chosen.shape[1] == 1 else repeat_heads(chosen, heads)

    def _shares(self, weights: Tensor, positions: Tensor) -> Tensor:
        """What blocks have of the weights of tokens (B, H, S, T) outside of the window: (B, H, S, J)."""
        if self.selection.window:
            distance = positions[:, None] - torch.arange(weights.shape[-1], device=weights.device)
            weights = weights.masked_fill(self.selection.near(distance), 0)
        return weights if self.selection.block == 1 else in_blocks(weights, self.selection.block).sum(-1)

    def _warming(self) -> bool:
        return self.training and self.learning is not None and self.learning.warming

    def _dropped(self) -> float:
        return self.dropout if self.training and self.dropout_on == "weights" else 0.0


def _lost(scores: Tensor, shares: Tensor, seen: Tensor) -> Tensor:
    """`divergence` of an index (B, S, J) from the shares of blocks (B, H, S, J), over those that are `seen`."""
    return divergence(scores, shares.sum(1, keepdim=True).masked_fill(~seen[:, None], 0), seen)
