"""One softmax over the tokens next to a query and entries that stand for those before (DeepSeek-V4, section 2.3)."""

from __future__ import annotations

from typing import Unpack, cast

import torch
from torch import Tensor, nn

from ablab.model.attention.base import AttentionCore, DropoutPlace, Switches, by_query, scores_of, softmax_of
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.compressed_cache import CompressedCache
from ablab.model.attention.dense import at_once, highest, recomputed, softmax_attention
from ablab.model.attention.flex.call import wanted
from ablab.model.attention.flex.entries import entries_attention
from ablab.model.attention.flex.masks import EVERYTHING, Past, Rule, shared
from ablab.model.attention.indexer import COMPARED, IndexLearning, divergence, index_scores, recall
from ablab.model.attention.kernel import working_dtype
from ablab.model.attention.local import Local
from ablab.model.attention.picked import GATHER_FROM, grouped_attention
from ablab.model.draws import dropout
from ablab.model.spec import LayerSpec, require_at_least, require_at_most

SLICE = 2**22  # scores that are there at one time
QUERIES = 128  # attended at one time, where the window is shorter


class CompressedCore(AttentionCore):
    """One softmax over a window of tokens and entries, whose values are the keys themselves.

    An entry is seen from the last token of its window on (where causal). With `keys` a query sees only so many entries,
    those that an index gives the highest scores; the index learns as that of `ablab.model.attention.dsa` does, from the
    weights of the entries alone.

    Time grows as T (window + T / block); memory as T, since a slice of queries is attended at a time.

    What it says of itself (`visited`, `weights`) is about tokens seen one by one, which are the window's.

    Args:
        window: see `ablab.model.attention.windowed.WindowedAttention`.
        block: tokens of an entry's window.
        keys: entries that a query sees, at least 1; None: all.
        learning: what the index learns by, with `keys`.
    """

    drops_weights = True

    def __init__(
        self,
        spec: LayerSpec,
        *,
        window: int,
        block: int,
        keys: int | None,
        learning: IndexLearning | None,
        dropout: float,
        dropout_on: DropoutPlace,
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__(spec, dropout=dropout, dropout_on=dropout_on, **switches)
        require_at_least(1, "attention.window", window)
        if keys is not None:
            require_at_least(1, "attention.keys", keys)
        self.window, self.block, self.keys, self.learning = window, block, keys, learning
        self.near = shared(Local(back=window - 1 if spec.causal else window, ahead=0 if spec.causal else window))
        self.past: Rule = shared(Past(block=block, stride=block)) if spec.causal else EVERYTHING
        own = ("entries_visited", "entry_share", *(() if self.sinks is None else ("sink_share",)))
        self.compares = (*own, *(() if keys is None else COMPARED))

    def check_length(self, length: int) -> None:
        """Raises ValueError where it keeps more entries than sequences of so many tokens have."""
        if self.keys is not None:
            entries, those = -(-length // self.block), f"entries that attention.block={self.block} makes of a sequence"
            require_at_most(entries, "attention.keys", self.keys, those)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None, index: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """`AttentionCore.forward` with entries (B, 1, N, D), which there are (B, N), and the index of these, if any."""
        out = self._attend_all(q, k, v, key_padding_mask, *index)
        return dropout(self, out, self.dropout) if self.dropout_on == "output" else out

    def _attend_all(
        self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, entries: Tensor, there: Tensor, *index: Tensor
    ) -> Tensor:
        # A first pass over fewer tokens than a window has brings no entry yet, and the kernels take no keys of none.
        if wanted(q) and not self._dropped() and entries.shape[2]:
            out, loss = entries_attention(self, q, k, v, padding, entries, there, *index, warming=self._warming())
            if torch.is_grad_enabled() and self.learning is not None:
                self.learning.keep(loss, padding)
            return out
        B, H, T, _ = q.shape
        heads = H + (index[0].shape[1] if index else 0)
        N, beside = entries.shape[2], 2 * max(self.window, QUERIES)
        most = at_once(SLICE, q.device) // (B * heads * (beside + N))
        rows = max(1, min(most, max(self.window, QUERIES)))
        scores = B * T * (H * min(T, beside) + heads * N)
        parts, lost, sinks = [], [], by_query(self.sinks)
        for start in range(0, T, rows):
            positions = torch.arange(start, min(start + rows, T), device=q.device)
            near = self._near(start, start + rows, T)
            given = (q[:, :, start : start + rows], k[:, :, near], v[:, :, near], sinks, near.start, positions)
            masked = None if padding is None else padding[:, near]
            n = max(1, min(start + rows, T) // self.block) if self.causal else entries.shape[2]
            own = (
                [index[0][:, :, start : start + rows], index[1][:, :, start : start + rows], index[2][:, :, :n]]
                if index
                else []
            )
            part, loss = recomputed(
                self._attend_slice, *given, masked, entries[:, :, :n], there[:, :n], *own, random=self._dropped() > 0,
                scores=scores,
            )  # fmt: skip
            parts.append(part)
            lost.append(loss)
        if torch.is_grad_enabled() and self.learning is not None:
            self.learning.keep(torch.cat(lost, 1), padding)
        return torch.cat(parts, 2)

    def _attend_slice(
        self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, first: int, positions: Tensor,
        padding: Tensor | None, entries: Tensor, there: Tensor, *index: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The output for queries at `positions`, with tokens from place `first` on, and what the index loses (B, S)."""
        local = self._local(positions, first, k.shape[2], padding)
        allowed = self.allowed(positions, there)
        scores = index_scores(*index) if index else None
        chosen = (
            allowed
            if scores is None or self.keys is None or self._warming()
            else highest(scores.detach(), allowed, self.keys)
        )
        mask = torch.cat([local.expand(len(q), -1, -1), chosen.expand(len(q), -1, -1)], -1)[:, None]
        keys, values = torch.cat([k, entries], 2), torch.cat([v, entries], 2)
        if scores is None or not torch.is_grad_enabled():
            out = softmax_attention(
                q, keys, values, mask=mask, dropout=self._dropped(), sinks=sinks, softcap=self.softcap
            )
            return out, q.new_zeros(len(q), len(positions))
        every = torch.arange(len(positions), device=q.device)
        products = scores_of(q, keys, every, softcap=self.softcap).to(working_dtype(q))
        weights = softmax_of(products, sinks, mask)
        lost = divergence(scores, weights[..., k.shape[2] :], chosen)
        return nn.functional.dropout(weights, self._dropped()).to(values.dtype) @ values, lost

    def extend(
        self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step, index: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """`AttentionCore.extend`, with all entries that are past (B, 1, N, D) and the index of these, if any."""
        window = cast(CompressedCache, cache).window
        k = window.extend(k, step)
        if step.first:
            there = torch.ones(len(q), index[0].shape[2], dtype=torch.bool, device=q.device)
            mixed: Tensor = self(q, v, v, step.padding, index=(index[0], there, *index[1:]))
            return mixed
        seen, parts = window.seen(step).unsqueeze(-2), []
        rows = max(1, at_once(SLICE, q.device) // (len(q) * q.shape[1] * (k.shape[2] + index[0].shape[2])))
        for start in range(0, q.shape[2], rows):
            own = slice(start, start + rows)
            at = step.positions[0, own] if step.alike else step.positions[:, own]
            scores = index_scores(index[1][:, :, own], index[2][:, :, own], index[3]) if len(index) > 1 else None
            parts.append(self._attend_past(q[:, :, own], k, seen, at.unsqueeze(-1), index[0], scores))
        return torch.cat(parts, 2)

    def _attend_past(
        self, q: Tensor, k: Tensor, seen: Tensor, at: Tensor, entries: Tensor, scores: Tensor | None
    ) -> Tensor:
        """New tokens at positions `at`, (S, 1) or (B, S, 1), to cached ones at `seen` and to entries."""
        distance = at - seen
        local = ((distance >= 0) & (distance < self.window) & (seen >= 0)).expand(len(q), q.shape[2], -1)
        ends = torch.arange(1, entries.shape[2] + 1, device=q.device) * self.block - 1
        chosen = (ends <= at).expand(len(q), q.shape[2], -1)
        if scores is not None and self.keys is not None:
            chosen = highest(scores, chosen, self.keys)
            if q.shape[2] == 1 and self.keys * GATHER_FROM <= entries.shape[2]:
                chosen, picked = chosen.byte().topk(self.keys, sorted=False)
                entries = entries.gather(2, picked.unsqueeze(-1).expand(-1, -1, -1, entries.shape[-1]))
        keys = torch.cat([k, entries], 2)
        return grouped_attention(self, q, keys, keys, torch.cat([local, chosen.bool()], -1).unsqueeze(1))

    def _near(self, start: int, stop: int, length: int) -> slice:
        """The tokens that queries from `start` to before `stop` see one by one."""
        if self.causal:
            return slice(max(0, start - self.window + 1), min(stop, length))
        return slice(max(0, start - self.window), min(stop + self.window, length))

    def _local(self, positions: Tensor, first: int, count: int, padding: Tensor | None) -> Tensor:
        """(B or 1, S, count): which of the tokens from place `first` on are in the windows of queries."""
        distance = positions[:, None] - torch.arange(first, first + count, device=positions.device)
        local = (distance >= 0) & (distance < self.window) if self.causal else distance.abs() <= self.window
        return local[None] if padding is None else local & ~padding[:, None, :]

    def allowed(self, positions: Tensor, there: Tensor) -> Tensor:
        """(B, S, N): the entries that queries at `positions` may see."""
        ends = (torch.arange(there.shape[1], device=there.device) + 1) * self.block - 1
        past = ends <= positions[:, None] if self.causal else torch.ones_like(ends <= positions[:, None])
        return past & there[:, None, :]

    def visited(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> Tensor:
        return self._local(positions, 0, k.shape[2], None)[None]

    def weights(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> Tensor:
        return self._split(q, k, positions, *index)[0]

    def compared(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> dict[str, Tensor]:
        """`compares` for the queries at `positions` (S,): (B, S) each."""
        tokens, shares, chosen = self._split(q, k, positions, *index)
        found = {"entries_visited": chosen.sum(-1), "entry_share": shares.sum(-1).mean(1)}
        if self.sinks is not None:
            found["sink_share"] = (1 - tokens.sum(-1) - shares.sum(-1)).mean(1)
        if self.keys is None:
            return found
        allowed = self.allowed(positions, index[1])
        _, full, _ = self._split(q, k, positions, *index[:2])
        best = highest(full.sum(1), allowed, self.keys)
        lost = divergence(self._scores(positions, *index[2:]), shares, chosen)
        return found | recall(chosen, best, allowed) | {"index_loss": lost}

    def _split(
        self, q: Tensor, k: Tensor, positions: Tensor, entries: Tensor, there: Tensor, *index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of tokens (B, H, S, T) and of entries (B, H, S, N), and which entries are chosen (B, S, N).

        All of them are, where no index is given.
        """
        chosen = self.allowed(positions, there)
        if index and self.keys is not None:
            chosen = highest(self._scores(positions, *index), chosen, self.keys)
        local = self._local(positions, 0, k.shape[2], None).expand(len(q), -1, -1)
        scores = scores_of(q, torch.cat([k, entries], 2), positions, softcap=self.softcap)
        mask = torch.cat([local, chosen], -1)[:, None]
        weights = softmax_of(scores, by_query(self.sinks), mask)
        return *weights.split([k.shape[2], entries.shape[2]], -1), chosen

    @staticmethod
    def _scores(positions: Tensor, q: Tensor, weight: Tensor, k: Tensor) -> Tensor:
        return index_scores(q[:, :, positions], weight[:, :, positions], k)

    def _warming(self) -> bool:
        return self.training and self.learning is not None and self.learning.warming

    def _dropped(self) -> float:
        return self.dropout if self.training and self.dropout_on == "weights" else 0.0
