"""Cores that choose blocks of keys, on the way by FlexAttention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ablab.model.attention.base import scores_of
from ablab.model.attention.choosing import ChoosingCore, block_divergence
from ablab.model.attention.dense import at_once, recomputed
from ablab.model.attention.flex.call import fused
from ablab.model.attention.flex.chosen import WORD, attend_chosen, packed, unpacked
from ablab.model.attention.flex.masks import CAUSAL, EVERYTHING
from ablab.model.attention.flex.rule import with_sinks
from ablab.model.attention.kernel import working_dtype
from ablab.model.attention.selection import means

SLICE = 2**22  # scores that are there at one time, of the choice and of what an index learns


class FlexChoosingCore(ChoosingCore):
    """Attends what it chooses by FlexAttention; what is chosen, and what an index learns, slice by slice."""

    def _by_flex(
        self, q: Tensor, k: Tensor, v: Tensor, there: Tensor, *index: Tensor, warming: bool
    ) -> tuple[Tensor, Tensor]:
        """The output, and what the index loses, (B, T)."""
        T = q.shape[2]
        pooled = means(index[2] if index else k.detach(), there, self.selection.block)
        words = self._chosen_words(q, there, pooled, *index[:2], warming=warming)
        out, lse = attend_chosen(
            q, k, v, words, rule=CAUSAL if self.causal else EVERYTHING, size=self.selection.block, there=there,
            near=self.selection.near if self.selection.window else None, softcap=self.softcap,
        )  # fmt: skip
        if index and torch.is_grad_enabled():
            lost = self._lost(q.detach(), k.detach(), lse.detach(), there, words, pooled, *index[:2])
        else:
            lost = q.new_zeros(len(q), T)
        return with_sinks(out, lse, self.sinks), lost

    def _rows(self, q: Tensor, heads: int, count: int) -> list[slice]:
        """Slices of queries for which so many scores of each are there at one time."""
        rows = max(1, at_once(SLICE, q.device) // (len(q) * heads * count))
        return [slice(start, min(start + rows, q.shape[2])) for start in range(0, q.shape[2], rows)]

    @torch.no_grad()
    def _chosen_words(self, q: Tensor, there: Tensor, pooled: Tensor, *index: Tensor, warming: bool) -> Tensor:
        """The choice of all queries, `packed`."""
        J, parts, positions = pooled.shape[2], [], torch.arange(q.shape[2], device=q.device)
        for own in self._rows(q, index[0].shape[1] if index else q.shape[1], J):
            n = self._reach(own.stop, J)
            given = q[:, :, own], there, positions[own], pooled[:, :, :n], *(x[:, :, own] for x in index)
            parts.append(pad(self._choose(warming, *given), (0, -(-J // WORD) - -(-n // WORD))))
        return torch.cat(parts, 2)

    @fused
    def _choose(
        self, warming: bool, q: Tensor, there: Tensor, positions: Tensor, pooled: Tensor, *index: Tensor
    ) -> Tensor:
        """What a slice of queries chooses, `packed`."""
        candidates, scores = self._scored(q, there, positions, pooled, *index)
        return packed(candidates.allowed if warming else self.selection.chosen(scores, candidates))

    def _lost(
        self, q: Tensor, k: Tensor, lse: Tensor, there: Tensor, words: Tensor, pooled: Tensor, *index: Tensor
    ) -> Tensor:
        if self.sinks is not None:
            lse = torch.logaddexp(lse, self.sinks.detach().to(lse.dtype).unsqueeze(-1))
        J, positions = pooled.shape[2], torch.arange(q.shape[2], device=q.device)
        parts = []
        for own in self._rows(q, q.shape[1], k.shape[2]):
            n = self._reach(own.stop, J)
            given = q[:, :, own], k[:, :, : n * self.selection.block], lse[:, :, own], there
            parts.append(
                recomputed(
                    self._lost_by, *given, positions[own], words[:, :, own], pooled[:, :, :n],
                    *(x[:, :, own] for x in index),
                )
            )  # fmt: skip
        return torch.cat(parts, 1)

    @fused
    def _lost_by(
        self, q: Tensor, k: Tensor, lse: Tensor, there: Tensor, positions: Tensor, words: Tensor, pooled: Tensor,
        *index: Tensor,
    ) -> Tensor:  # fmt: skip
        """What the index loses of a slice of queries, (B, S), whose attention had log-sum-exps `lse`."""
        candidates, scores = self._scored(q, there, positions, pooled, *index)
        chosen = unpacked(words, pooled.shape[2])
        with torch.no_grad():
            every = torch.arange(q.shape[2], device=q.device)
            products = scores_of(q, k, every, softcap=self.softcap).to(working_dtype(q))
            seen = self._tokens(chosen, positions, there[:, : k.shape[2]], q.shape[1])
            weights = (products - lse.unsqueeze(-1)).masked_fill(~seen, float("-inf")).exp()
        return block_divergence(scores[:, 0], self._shares(weights, positions), (chosen & candidates.scored)[:, 0])

    def _reach(self, stop: int, count: int) -> int:
        """How many of the blocks queries before `stop` may see."""
        return min(count, -(-stop // self.selection.block)) if self.causal else count
