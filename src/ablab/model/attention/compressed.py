"""Attention to compressed keys and values (DeepSeek-AI 2026, DeepSeek-V4, sections 2.3.1 and 2.3.2).

A query sees the last tokens one by one, and those before them as entries that stand for a window of tokens each: `csa`
those that an indexer picks of short windows, `hca` all of long ones. Both go into one softmax.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from ablab.model.attention.base import DropoutPlace, Switches
from ablab.model.attention.compressed_core import CompressedCore
from ablab.model.attention.compressor import Compressor, EntryIndexer, turned
from ablab.model.attention.indexer import IndexLearning
from ablab.model.attention.layer import (
    AttentionLayer,
    HeadNorm,
    Rotate,
    gate_of,
    gated,
    join_heads,
    output_of,
    split_heads,
)
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
        self.head_size = size
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
        q = split_heads(self.query(latent), self.head_size)
        q = turned(rms_norm(q, q.shape[-1:], eps=1e-6), self.rope)
        k = turned(self.key_norm(split_heads(self.key(x), self.head_size)), self.rope)
        index = self.compressor(x, there)
        if self.indexer is not None:
            index += self.indexer(x, latent, there)
        mixed = turned(self.core(q, k, k, key_padding_mask, index=index), self.rope, back=True)
        return cast(Tensor, self.output(join_heads(gated(mixed, x, self.output_gate))))


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


class CompressedSparseAttention(CompressedAttention):
    """Short windows that overlap, of whose entries a lightning indexer picks some (section 2.3.1).

    Args:
        keys: entries that a query sees.
        index_heads: of the indexer, which learns as that of `ablab.model.attention.dsa`.
        index_size: coordinates of each.
        index_weight: by what the indexer's loss counts beside the task's.
        warmup_steps: optimizer steps in which all entries are seen, and the indexer learns from all of them.
    """

    def __init__(
        self,
        spec: LayerSpec,
        *,
        block: int,
        window: int,
        keys: int,
        index_heads: int,
        index_size: int | None = None,
        index_weight: float = 1.0,
        warmup_steps: int = 0,
        q_rank: int | None = None,
        rope_size: int | None = None,
        rope_base: float = 10000.0,
        output_groups: int = 1,
        output_rank: int | None = None,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__(
            spec,
            block=block,
            overlap=True,
            window=window,
            keys=keys,
            index_heads=index_heads,
            index_size=index_size,
            learning=IndexLearning(weight=index_weight, warmup_steps=warmup_steps),
            q_rank=q_rank,
            rope_size=rope_size,
            rope_base=rope_base,
            output_groups=output_groups,
            output_rank=output_rank,
            dropout=dropout,
            dropout_on=dropout_on,
            **switches,
        )


class HeavilyCompressedAttention(CompressedAttention):
    """Long windows side by side, of which all entries are seen (section 2.3.2)."""

    def __init__(
        self,
        spec: LayerSpec,
        *,
        block: int,
        window: int,
        q_rank: int | None = None,
        rope_size: int | None = None,
        rope_base: float = 10000.0,
        output_groups: int = 1,
        output_rank: int | None = None,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__(
            spec,
            block=block,
            overlap=False,
            window=window,
            keys=None,
            index_heads=None,
            index_size=None,
            learning=None,
            q_rank=q_rank,
            rope_size=rope_size,
            rope_base=rope_base,
            output_groups=output_groups,
            output_rank=output_rank,
            dropout=dropout,
            dropout_on=dropout_on,
            **switches,
        )
