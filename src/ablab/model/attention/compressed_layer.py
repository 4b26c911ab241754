"""The layer around compressed entries and a window (DeepSeek-AI 2026, DeepSeek-V4, section 2.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from ablab.model.attention.base import DropoutPlace, Switches
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.compressed_cache import CompressedCache
from ablab.model.attention.compressed_core import CompressedCore
from ablab.model.attention.compressor import Compressor, EntryIndexer, turned, turned_at
from ablab.model.attention.indexer import IndexLearning
from ablab.model.attention.layer import AttentionLayer, Rotate
from ablab.model.attention.projections import HeadNorm, gate_of, gated, join_heads, output_of, scaled, split_heads
from ablab.model.context import LayerContext
from ablab.model.position import Rope
from ablab.model.spec import LayerSpec, require_at_least


class CompressedAttention(AttentionLayer):
    """Projections around a `CompressedCore`, as DeepSeek-V4 has them (section 2.3.3).

    One head serves as keys and values of all heads of queries. Both are normalised, and their trailing coordinates are
    rotated: the layer brings a rotation of its own, at the places of tokens and of entries, and takes it away from what
    is mixed at the place of the query, so that what a value brings depends on its distance alone. What the model
    adds to the embedding it sees as any option does.

    With `output_rank` neighbouring heads are projected by groups, and what comes of all groups once more (grouped
    output projection, section 2.3.1).

    Deviations: heads are d_model / n_heads wide, where the released model's are wider. The paper is about causal
    models; where not causal every entry is seen, and the window extends to both sides.

    Args:
        block: tokens of an entry's window.
        overlap: entries reach over the window before theirs, too.
        window: tokens seen one by one.
        index_size: coordinates of each of the indexer's heads; None for those of the model's.
        q_rank: width of a latent of queries; None projects them directly.
        rope_size: rotated coordinates of a head, even; None for half of it.
        rope_base: of the rotation's wavelengths.
        output_groups: of heads, each of which has a projection of its own.
        output_rank: width of what that gives; None: there is one projection of all heads.

    Raises:
        ValueError: a setting is out of its range, or the model groups its heads of keys.
    """

    rotates = False
    groups_heads = False
    core: CompressedCore

    def __init__(
        self,
        spec: LayerSpec,
        *,
        block: int,
        overlap: bool,
        window: int,
        keys: int | None,
        index_heads: int | None,
        index_size: int | None,
        learning: IndexLearning | None,
        q_rank: int | None,
        rope_size: int | None,
        rope_base: float,
        output_groups: int,
        output_rank: int | None,
        dropout: float,
        dropout_on: DropoutPlace,
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__()
        _check(spec, switches)
        d, size = spec.d_model, spec.head_size
        rope_size = max(2, size // 4 * 2) if rope_size is None else rope_size
        if rope_size < 2 or rope_size % 2 or rope_size > size:
            raise ValueError(
                f"attention.rope_size={rope_size} must be even, from 2 to the {size} coordinates of a head"
            )
        self.head_size = self.query_size = size
        self.rope = Rope(replace(spec, d_model=rope_size, n_heads=1, n_kv_heads=None), base=rope_base)
        self.query_latent: nn.Module = nn.Identity()
        if q_rank is not None:
            require_at_least(1, "attention.q_rank", q_rank)
            self.query_latent = nn.Sequential(nn.Linear(d, q_rank, bias=False), HeadNorm(q_rank, eps=1e-6))
        inputs = d if q_rank is None else q_rank
        self.query = nn.Linear(inputs, d, bias=spec.bias)
        self.key = nn.Linear(d, size, bias=spec.bias)
        self.key_norm = HeadNorm(size, eps=1e-6)
        self.compressor = Compressor(spec, size=size, block=block, overlap=overlap, rope=self.rope)
        self.indexer: EntryIndexer | None = None
        if index_heads is not None:
            own = size if index_size is None else index_size
            self.indexer = EntryIndexer(spec, heads=index_heads, size=own, inputs=inputs, block=block, rope=self.rope)
        self.core = CompressedCore(
            spec,
            window=window,
            block=block,
            keys=keys,
            learning=learning,
            dropout=dropout,
            dropout_on=dropout_on,
            **switches,
        )
        self.output_gate = gate_of(spec, self.core)
        self.output = output_of(spec, groups=output_groups, rank=output_rank)

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        there = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        there = there if key_padding_mask is None else ~key_padding_mask
        latent = self.query_latent(x)
        q, k = (turned(each, self.rope) for each in self._projected(x, latent))
        index = self.compressor(x, there)
        if self.indexer is not None:
            index += self.indexer(x, latent, there)
        mixed = turned(self.core(q, k, k, key_padding_mask, index=index), self.rope, back=True)
        return cast(Tensor, self.output(join_heads(gated(mixed, x, self.output_gate))))

    def new_cache(self, batch: int, capacity: int) -> LayerCache | None:
        if not self.core.causal:
            return None
        index = None if self.indexer is None else self.indexer.compressor
        return CompressedCache(
            batch, capacity, window=self.core.window, size=self.head_size, compressor=self.compressor, index=index
        )

    def cache_numbers(self, length: int) -> int | None:
        if not self.core.causal:
            return None
        numbers = min(length, self.core.window) * self.head_size + self.compressor.cache_numbers(length)
        return numbers + (0 if self.indexer is None else self.indexer.compressor.cache_numbers(length))

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        kept, step = cast(CompressedCache, cache), cast(Step, context.step)
        latent = self.query_latent(x)
        q, k = (turned_at(each, self.rope, step.positions) for each in self._projected(x, latent))
        index: tuple[Tensor, ...] = (self.compressor.extend(x, kept.entries, step),)
        if self.indexer is not None and kept.index is not None:
            index += self.indexer.extend(x, latent, kept.index, step)
        mixed = turned_at(self.core.extend(q, k, k, cache, step, index), self.rope, step.positions, back=True)
        return cast(Tensor, self.output(join_heads(gated(mixed, x, self.output_gate))))

    def _projected(self, x: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and the keys, which are the values, too: not yet rotated."""
        q = split_heads(self.query(latent), self.head_size)
        k: Tensor = self.key_norm(split_heads(self.key(x), self.head_size))
        return scaled(rms_norm(q, q.shape[-1:], eps=1e-6), self.query_factor), k


def _check(spec: LayerSpec, switches: Switches) -> None:
    if spec.kv_heads != spec.n_heads:
        raise ValueError(
            f"model.n_kv_heads={spec.n_kv_heads}: compressed attention has one head of keys and values for all heads "
            "and groups none: use model.n_kv_heads=null"
        )
    if switches.get("qk_norm"):
        raise ValueError(
            "attention.qk_norm=true: compressed attention normalises queries and keys by itself: use "
            "attention.qk_norm=false"
        )
