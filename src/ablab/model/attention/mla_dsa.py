"""DeepSeek sparse attention on latent attention, as DeepSeek-V3.2 has it (arXiv 2512.02556, section 2.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack, cast

import torch
from torch import Tensor

from ablab.model.attention.absorbed import LatentCache
from ablab.model.attention.base import DropoutPlace, Switches
from ablab.model.attention.block_cache import PooledKeys
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.dense import at_once
from ablab.model.attention.dsa import IndexedAttention, attend_and_learn
from ablab.model.attention.gathered import listed
from ablab.model.attention.indexer import LightningIndexer, require_rotated
from ablab.model.attention.layer import Rotate, View
from ablab.model.attention.mla import LatentLayer
from ablab.model.attention.picked import GATHER_FROM, places
from ablab.model.attention.selected_core import SLICE
from ablab.model.context import LayerContext
from ablab.model.spec import LayerSpec


class IndexedLatents(LayerCache):
    """Latents, and the keys of the indexer."""

    def __init__(self, latents: LatentCache, keys: PooledKeys) -> None:
        self.latents, self.keys = latents, keys


class LatentSparseAttention(LatentLayer):
    """Latent attention to the keys that a lightning indexer picks.

    The indexer's queries are made of the latent of queries where there is one, its keys and weights of the layer's
    input. The leading coordinates of both are rotated as those of the attention are, by the layer's own rotation.

    Deviation: the warm-up of the released model trains the indexer alone, behind a model that is trained already, where
    here the whole model learns from the first step.

    Args:
        keys: that a query sees.
        index_heads: of the indexer.
        index_size: coordinates of each, at least as many as are rotated; None for those of the model's heads.
        index_weight: by what the indexer's loss counts beside the task's.
        warmup_steps: optimizer steps in which the attention is full and the indexer learns from all of it.
        kv_rank, q_rank, rope_size, rope_base: as of `LatentLayer`.
        dropout: probability.
        dropout_on: features of the output, or attention weights.
        switches: `output_gate`, `sinks` and `softcap`, as of `AttentionCore`; `qk_norm` must be false.

    Raises:
        ValueError: a setting is out of its range, or the model groups its heads of keys.
    """

    core: IndexedAttention

    def __init__(
        self,
        spec: LayerSpec,
        *,
        keys: int,
        index_heads: int,
        index_size: int | None = None,
        index_weight: float = 1.0,
        warmup_steps: int = 0,
        kv_rank: int | None = None,
        q_rank: int | None = None,
        rope_size: int | None = None,
        rope_base: float = 10000.0,
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
        super().__init__(spec, core=core, kv_rank=kv_rank, q_rank=q_rank, rope_size=rope_size, rope_base=rope_base)
        self.indexer = LightningIndexer(spec, heads=index_heads, size=index_size, inputs=q_rank)
        require_rotated(self.indexer.head_size, self.rope)

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        queries = self.query_latent(x)
        index = self.indexer(x, self.rope.rotate, queries)
        return self._out(self.core(*self._projected(x, queries), key_padding_mask, index=index), x)

    def new_cache(self, batch: int, capacity: int) -> LayerCache | None:
        latents = super().new_cache(batch, capacity)
        if latents is None:
            return None
        size, like = self.indexer.head_size, self.value.weight
        return IndexedLatents(cast(LatentCache, latents), PooledKeys(batch, 1, capacity, size, block=1, like=like))

    def cache_numbers(self, length: int) -> int | None:
        latents = super().cache_numbers(length)
        return None if latents is None else latents + length * self.indexer.head_size

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        step, cache = cast(Step, context.step), cast(IndexedLatents, cache)
        queries, rotate = self.query_latent(x), self._rotate_at(step)
        q, latent, rotated = self._compressed(x, queries, rotate)
        *asked, keys = self.indexer(x, rotate, queries)
        kept, keys_kept = cache.latents.extend(latent, rotated, step), cache.keys.extend(keys, step)
        if step.first:
            mixed = self.core(q, *self._expanded(latent, rotated), step.padding, index=(*asked, keys))
            return self._out(mixed, x)
        rows = max(1, at_once(SLICE, x.device) // (q.shape[0] * q.shape[1] * step.total))
        parts = [
            self._absorbed(some, *self._chosen(some, kept, keys_kept, positions, *index))
            for some, positions, *index in zip(
                q.split(rows, 2), places(step).split(rows, -1), *(x.split(rows, 2) for x in asked), strict=True
            )
        ]
        return self._out(torch.cat(parts, 2), x)

    def _chosen(
        self, q: Tensor, kept: Tensor, keys: Tensor, positions: Tensor, *index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is kept (B, n, size) of tokens of which queries choose some, and which, bool (B, 1, S, n).

        These are all tokens, or, of a single query that chooses few, those that it chooses.
        """
        total = kept.shape[1]
        chosen = self.core.chosen_past(q, keys, positions, total, *index)
        if q.shape[2] > 1 or self.core.keys * GATHER_FROM > total:
            return kept, chosen
        tokens, found = listed(chosen, self.core.keys)
        return kept.gather(1, tokens[:, 0, 0, :, None].expand(-1, -1, kept.shape[2])), found

    def attend_each(self, x: Tensor, rotate: Rotate, views: Iterable[View]) -> Tensor:
        """As `AttentionLayer.attend_each`; the indexer learns from every view."""
        return attend_and_learn(self, self.core.learning, x, rotate, views)
