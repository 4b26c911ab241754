"""Which blocks of keys the queries of a core choose, and what that is worth."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
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
from ablab.model.attention.indexer import IndexLearning, divergence, index_scores
from ablab.model.attention.selection import Candidates, Selection, in_blocks, means, pooled_scores
from ablab.model.spec import LayerSpec


class ChoosingCore(AttentionCore):
    """Chooses blocks of keys, by the mean of their keys or by an index.

    Args:
        selection: of blocks.
        learning: what an index learns by; None: there is none.
    """

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

    def visited(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> Tensor:
        _, chosen, _ = self._choice(q, k, positions, *index)
        there = torch.ones(len(k), k.shape[2], dtype=torch.bool, device=k.device)
        return self._tokens(chosen, positions, there, q.shape[1])

    def weights(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> Tensor:
        scores = scores_of(q, k, positions, softcap=self.softcap)
        return softmax_of(scores, by_query(self.sinks), self.visited(q, k, positions, *index))

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
        return told | {"index_loss": block_divergence(scores[:, 0], shares, seen)}

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


def block_divergence(scores: Tensor, shares: Tensor, seen: Tensor) -> Tensor:
    """`divergence` of an index (B, S, J) from the shares of blocks (B, H, S, J), over those that are `seen`."""
    return divergence(scores, shares.sum(1, keepdim=True).masked_fill(~seen[:, None], 0), seen)
