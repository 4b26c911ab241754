"""Attention to compressed keys and values (DeepSeek-AI 2026, DeepSeek-V4, sections 2.3.1 and 2.3.2).

A query sees the last tokens one by one, and those before them as entries that stand for a window of tokens each: `csa`
those that an indexer picks of short windows, `hca` all of long ones. Both go into one softmax.
"""

from __future__ import annotations

from typing import Unpack

from ablab.model.attention.base import DropoutPlace, Switches
from ablab.model.attention.compressed_layer import CompressedAttention
from ablab.model.attention.indexer import IndexLearning
from ablab.model.spec import LayerSpec


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
