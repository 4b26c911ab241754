"""DeepSeek sparse attention (DeepSeek-AI 2025, DeepSeek-V3.2, arXiv 2512.02556, section 2.1).

A lightning indexer (`ablab.model.attention.indexer`) picks the keys that a query sees, the same for all heads, and the
softmax over these is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack, cast

import torch
from torch import Tensor

from ablab.model.attention.base import DropoutPlace, Switches
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.indexer import IndexLearning, LightningIndexer
from ablab.model.attention.layer import AttentionLayer, MultiHeadAttention, Rotate, Values, View
from ablab.model.attention.projections import gated, join_heads
from ablab.model.attention.selected_cache import CacheSizes, SelectedCache
from ablab.model.attention.selected_core import SelectedCore
from ablab.model.attention.selection import Selection
from ablab.model.context import LayerContext
from ablab.model.spec import LayerSpec, require_at_least, require_at_most


class IndexedAttention(SelectedCore):
    """A query sees the `keys` keys that an index gives the highest scores, or all where there are fewer.

    Of keys with equal scores the later one is taken. The choice has no gradient: the index learns from a penalty, which
    is `index_weight` times the mean over the queries of KL(p || softmax of the index), with p the attention's own
    weights, summed over the heads and made to sum to 1, over the keys that the query sees (equations 3 and 4). The
    attention learns nothing from it. In the first `warmup_steps` steps of training a query sees all keys, and so does
    the penalty; evaluation always chooses.

    Every score of the index is computed: time grows as T^2, and memory as T. The attention's scores are all computed,
    too, and those that are not chosen are hidden; in training on long sequences the chosen keys are gathered instead.

    Args:
        keys: at least 1.
        index_weight: above 0.
        warmup_steps: at least 0.
    """

    learning: IndexLearning

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
        require_at_least(1, "attention.keys", keys)
        super().__init__(
            spec,
            selection=Selection(block=1, count=keys, first=0, local=0, window=0, causal=spec.causal),
            learning=IndexLearning(weight=index_weight, warmup_steps=warmup_steps),
            dropout=dropout,
            dropout_on=dropout_on,
            **switches,
        )

    @property
    def keys(self) -> int:
        """That a query sees."""
        return self.selection.count

    def check_length(self, length: int) -> None:
        """Raises ValueError where it keeps more keys than sequences of so many tokens have."""
        require_at_most(length, "attention.keys", self.keys, "tokens of a sequence (task.seq_len)")


class IndexedLayer(MultiHeadAttention):
    """Projections around a core that is given the index of an indexer, if there is one.

    Args:
        core: called with `index`; its `learning` is what the indexer learns by.
    """

    core: SelectedCore

    def __init__(self, spec: LayerSpec, *, core: SelectedCore, indexer: LightningIndexer | None) -> None:
        super().__init__(spec, core=core)
        self.indexer = indexer

    def forward(
        self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None, values: Values | None = None
    ) -> Tensor:
        q, k, v = self._projected(x, rotate)
        index = () if self.indexer is None else self.indexer(x, rotate)
        mixed = self.core(q, k, v if values is None else values(v), key_padding_mask, index=index)
        return cast(Tensor, self.output(join_heads(gated(mixed, x, self.output_gate))))

    def new_cache(self, batch: int, capacity: int) -> LayerCache | None:
        return SelectedCache(batch, capacity, **self._sizes) if self.core.causal else None

    def cache_numbers(self, length: int) -> int | None:
        return SelectedCache.numbers(length, **self._sizes) if self.core.causal else None

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        q, k, v = self._projected(x, context.rotate)
        index = () if self.indexer is None else self.indexer(x, context.rotate)
        v = v if context.values is None else context.values(v)
        mixed = self.core.extend(q, k, v, cache, cast(Step, context.step), index)
        return cast(Tensor, self.output(join_heads(gated(mixed, x, self.output_gate))))

    @property
    def _sizes(self) -> CacheSizes:
        return {
            "heads": self._heads,
            "size": self.head_size,
            "block": self.core.selection.block,
            "index_size": None if self.indexer is None else self.indexer.head_size,
            "like": self.value.weight,
        }

    def attend_each(self, x: Tensor, rotate: Rotate, views: Iterable[View]) -> Tensor:
        """As `AttentionLayer.attend_each`; the indexer learns from every view."""
        if self.learning is None:
            return super().attend_each(x, rotate, views)
        return attend_and_learn(self, self.learning, x, rotate, views)

    @property
    def learning(self) -> IndexLearning | None:
        """What the indexer learns by."""
        return self.core.learning


class DeepSeekSparseAttention(IndexedLayer):
    """Multi-head attention to the keys that a lightning indexer picks.

    Deviations: the released model has latent attention and indexes by its latent of queries (as `mla_dsa` does), where
    here the layer's input serves both; and its warm-up trains the indexer alone, behind a model that is trained
    already, where here the whole model learns from the first step.

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


def attend_and_learn(
    layer: AttentionLayer, learning: IndexLearning, x: Tensor, rotate: Rotate, views: Iterable[View]
) -> Tensor:
    """`AttentionLayer.attend_each` of a layer whose index learns from every view."""
    mixed, asked = [], []
    for place, mask in views:
        mixed.append(layer(x, rotate, mask)[:, place])
        asked += [] if learning.asked is None else [learning.asked]
    learning.asked = torch.stack(asked).mean() if asked else None
    return torch.cat(mixed, 1)
