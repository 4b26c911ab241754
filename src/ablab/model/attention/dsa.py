"""DeepSeek sparse attention (DeepSeek-AI 2025, DeepSeek-V3.2, arXiv 2512.02556, section 2.1).

A lightning indexer (`ablab.model.attention.indexer`) picks the keys that a query sees, the same for all heads, and the
softmax over these is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack, cast

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from ablab.model.attention.base import AttentionCore, DropoutPlace, Switches, by_query, scores_of, softmax_of
from ablab.model.attention.dense import at_once, highest, recomputed, softmax_attention
from ablab.model.attention.indexer import COMPARED, IndexLearning, LightningIndexer, divergence, index_scores, recall
from ablab.model.attention.kernel import working_dtype
from ablab.model.attention.layer import MultiHeadAttention, Rotate, Values, View, gated, join_heads
from ablab.model.spec import LayerSpec, require_at_least

SLICE = 2**22  # scores that are there at one time


class IndexedAttention(AttentionCore):
    """A query sees the `keys` keys that an index gives the highest scores, or all where there are fewer.

    Of keys with equal scores the later one is taken. The choice has no gradient: the index learns from a penalty, which
    is `index_weight` times the mean over the queries of KL(p || softmax of the index), with p the attention's own
    weights, summed over the heads and made to sum to 1, over the keys that the query sees (equations 3 and 4). The
    attention learns nothing from it. In the first `warmup_steps` steps of training a query sees all keys, and so does
    the penalty; evaluation always chooses.

    Every score of the index is computed, and every score of the attention; those that are not chosen are hidden, and no
    keys are moved. Time grows as T^2, and memory as T: a slice of queries is attended at a time, and again in the
    backward pass.

    Args:
        keys: at least 1.
        index_weight: above 0.
        warmup_steps: at least 0.
    """

    drops_weights = True
    compares = COMPARED

    def __init__(
        self,
        spec: LayerSpec,
        *,
        keys: int,
        index_weight: float,
        warmup_steps: int,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__(spec, dropout=dropout, dropout_on=dropout_on, **switches)
        require_at_least(1, "attention.keys", keys)
        self.keys = keys
        self.learning = IndexLearning(weight=index_weight, warmup_steps=warmup_steps)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None, index: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """`AttentionCore.forward` with the index of the same tokens (`ablab.model.attention.indexer.Index`)."""
        out = self.attend_by(index, q, k, v, key_padding_mask)
        if self.dropout and self.dropout_on == "output":
            out = drop(out, self.dropout, self.training)
        return out

    def attend_by(
        self, index: tuple[Tensor, ...], q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None
    ) -> Tensor:
        """`forward` without dropout on the output; in training what the penalty will be is kept."""
        (B, H, T, _), (index_q, index_weight, index_k) = q.shape, index
        rows = max(1, at_once(SLICE, q.device) // (B * (H + index_q.shape[1]) * T))
        parts, lost, learns = [], [], torch.is_grad_enabled()
        warming = self.training and self.learning.warming
        for start in range(0, T, rows):
            stop = min(start + rows, T)
            reach = stop if self.causal else T
            positions = torch.arange(start, stop, device=q.device)
            padding = None if key_padding_mask is None else key_padding_mask[:, :reach]
            of_index = index_q[:, :, start:stop], index_weight[:, :, start:stop], index_k[:, :, :reach]
            given = (q[:, :, start:stop], k[:, :, :reach], v[:, :, :reach], *of_index, positions, padding)
            if learns:
                part, loss = recomputed(self._learn_slice, *given, warming, random=self._dropped() > 0)
                lost.append(loss)
            else:
                part = recomputed(self._attend_slice, *given)
            parts.append(part)
        if learns:
            self.learning.keep(torch.cat(lost, 1), key_padding_mask)
        return torch.cat(parts, dim=2)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> Tensor:
        index_q, index_weight, index_k = index
        scores = index_scores(index_q[:, :, positions], index_weight[:, :, positions], index_k)
        return highest(scores, self._allowed(positions, k.shape[2], None), self.keys).unsqueeze(1)

    def weights(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> Tensor:
        scores = scores_of(q, k, positions, softcap=self.softcap)
        scores = scores.masked_fill(~self.visited(q, k, positions, *index), float("-inf"))
        return softmax_of(scores, by_query(self.sinks))

    def compared(self, q: Tensor, k: Tensor, positions: Tensor, *index: Tensor) -> dict[str, Tensor]:
        """`COMPARED` for the queries at `positions` (S,), beside full attention: (B, S) each."""
        allowed, chosen = self._allowed(positions, k.shape[2], None), self.visited(q, k, positions, *index)[:, 0]
        scores = scores_of(q, k, positions, softcap=self.softcap).masked_fill(~allowed[:, None], float("-inf"))
        best = highest(softmax_of(scores, by_query(self.sinks)).sum(1), allowed, self.keys)
        of_index = index_scores(index[0][:, :, positions], index[1][:, :, positions], index[2])
        lost = divergence(of_index, self.weights(q, k, positions, *index), chosen)
        return recall(chosen, best, allowed) | {"index_loss": lost}

    def _attend_slice(
        self, q: Tensor, k: Tensor, v: Tensor, index_q: Tensor, index_weight: Tensor, index_k: Tensor,
        positions: Tensor, padding: Tensor | None,
    ) -> Tensor:  # fmt: skip
        scores = index_scores(index_q, index_weight, index_k)
        seen = highest(scores, self._allowed(positions, k.shape[2], padding), self.keys)
        return softmax_attention(q, k, v, mask=seen[:, None], sinks=by_query(self.sinks), softcap=self.softcap)

    def _learn_slice(
        self, q: Tensor, k: Tensor, v: Tensor, index_q: Tensor, index_weight: Tensor, index_k: Tensor,
        positions: Tensor, padding: Tensor | None, warming: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Output, and the divergence of the index from the attention for each query, (B, S)."""
        scores = index_scores(index_q, index_weight, index_k)
        allowed = self._allowed(positions, k.shape[2], padding)
        seen = allowed.expand(scores.shape) if warming else highest(scores.detach(), allowed, self.keys)
        every = torch.arange(len(positions), device=q.device)
        of_keys = scores_of(q, k, every, softcap=self.softcap).to(working_dtype(q))
        weights = softmax_of(of_keys.masked_fill(~seen[:, None], float("-inf")), by_query(self.sinks))
        lost = divergence(scores, weights, seen)
        group = q.shape[1] // v.shape[1]
        dropped = drop(weights, self._dropped()).to(v.dtype)
        return (dropped.unflatten(1, (-1, group)) @ v.unsqueeze(2)).flatten(1, 2), lost

    def _allowed(self, positions: Tensor, length: int, padding: Tensor | None) -> Tensor:
        """(B or 1, S, length): the keys that queries at `positions` (S,) may choose from."""
        keys = torch.arange(length, device=positions.device)
        allowed = keys <= positions[:, None] if self.causal else torch.ones_like(keys <= positions[:, None])
        return allowed[None] if padding is None else allowed & ~padding[:, None, :]

    def _dropped(self) -> float:
        return self.dropout if self.training and self.dropout_on == "weights" else 0.0


class IndexedLayer(MultiHeadAttention):
    """Projections around a core that is given the index of an indexer, if there is one.

    Args:
        core: called with `index`; its `learning` is what the indexer learns by.
    """

    def __init__(self, spec: LayerSpec, *, core: AttentionCore, indexer: LightningIndexer | None) -> None:
        super().__init__(spec, core=core)
        self.indexer = indexer

    def forward(
        self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None, values: Values | None = None
    ) -> Tensor:
        q, k, v = self._projected(x, rotate)
        index = () if self.indexer is None else self.indexer(x, rotate)
        mixed = self.core(q, k, v if values is None else values(v), key_padding_mask, index=index)
        return cast(Tensor, self.output(join_heads(gated(mixed, x, self.output_gate))))

    def attend_each(self, x: Tensor, rotate: Rotate, views: Iterable[View]) -> Tensor:
        """As `AttentionLayer.attend_each`; the indexer learns from every view."""
        mixed, asked, learning = [], [], self.learning
        for place, mask in views:
            mixed.append(self(x, rotate, mask)[:, place])
            asked += [] if learning is None or learning.asked is None else [learning.asked]
        if learning is not None:
            learning.asked = torch.stack(asked).mean() if asked else None
        return torch.cat(mixed, 1)

    @property
    def learning(self) -> IndexLearning | None:
        """What the indexer learns by."""
        return cast(IndexLearning | None, self.core.learning)


class DeepSeekSparseAttention(IndexedLayer):
    """Multi-head attention to the keys that a lightning indexer picks.

    Deviations: the released model has latent attention and indexes by its latent of queries, where here the layer's
    input serves both; and its warm-up trains the indexer alone, behind a model that is trained already, where here the
    whole model learns from the first step.

    Args:
        keys: that a query sees.
        index_heads: of the indexer.
        index_weight: by what the indexer's loss counts beside the task's.
        warmup_steps: optimizer steps in which the attention is full and the indexer learns from all of it.
        dropout: probability.
        dropout_on: features of the output, or attention weights.
        switches: `qk_norm`, `output_gate`, `sinks` and `softcap`, as of `AttentionCore`.

    Raises:
        ValueError: a setting is out of its range.
    """

    core: IndexedAttention

    def __init__(
        self,
        spec: LayerSpec,
        *,
        keys: int,
        index_heads: int,
        index_weight: float = 1.0,
        warmup_steps: int = 0,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        **switches: Unpack[Switches],
    ) -> None:
        core = IndexedAttention(
            spec,
            keys=keys,
            index_weight=index_weight,
            warmup_steps=warmup_steps,
            dropout=dropout,
            dropout_on=dropout_on,
            **switches,
        )
        super().__init__(spec, core=core, indexer=LightningIndexer(spec, heads=index_heads))
