"""Native sparse attention (Yuan et al. 2025, arXiv 2502.11089, section 3).

Three attentions side by side, each with keys and values of its own, weighed by gates that read the input:

* compressed: blocks of keys and values are made into one each by a small network, and all of them are seen;
* selected: the scores of the compressed keys say which blocks matter; these are seen token by token;
* window: the last tokens.
"""

from __future__ import annotations

from typing import Unpack, cast

import torch
from torch import Tensor, nn

from ablab.model.attention.base import DropoutPlace, Switches
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.layer import AttentionLayer, Rotate
from ablab.model.attention.nsa_core import BRANCHES, NativeSparseCore
from ablab.model.attention.projections import HeadNorm, join_heads, normed, scaled, split_heads
from ablab.model.context import LayerContext
from ablab.model.initialisation import ResidualLinear
from ablab.model.spec import LayerSpec


class NativeSparseAttention(AttentionLayer):
    """Projections and gates around the three branches of `NativeSparseCore`, whose options it takes.

    The position rotates what the selected branch and the window compare, as it does for other options. Compressed keys
    stand for a stretch of positions; they and the queries that they meet are not rotated, and their order within a
    block is told by the encoding of `Compression`. (The paper leaves this open.)
    """

    core: NativeSparseCore

    def __init__(
        self,
        spec: LayerSpec,
        *,
        compress_block: int,
        compress_stride: int,
        select_block: int,
        selected_blocks: int,
        window: int,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__()
        if switches.get("output_gate", "none") != "none":
            raise ValueError(
                f"attention.output_gate={switches['output_gate']}: native sparse attention has gates of its own, one "
                "for each branch of each head: use attention.output_gate=none"
            )
        d, branches = spec.d_model, len(BRANCHES)
        self.head_size = spec.head_size
        self.query_size = spec.head_size
        self.query = nn.Linear(d, d, bias=spec.bias)
        self.key = nn.Linear(d, branches * spec.kv_heads * spec.head_size, bias=spec.bias)
        self.value = nn.Linear(d, branches * spec.kv_heads * spec.head_size, bias=spec.bias)
        hidden = max(1, d // 4)
        self.gate = nn.Sequential(
            nn.Linear(d, hidden, bias=spec.bias), nn.GELU(), nn.Linear(hidden, branches * spec.n_heads, bias=spec.bias)
        )
        self.core = NativeSparseCore(
            spec,
            compress_block=compress_block,
            compress_stride=compress_stride,
            select_block=select_block,
            selected_blocks=selected_blocks,
            window=window,
            dropout=dropout,
            dropout_on=dropout_on,
            **switches,
        )
        self.query_norm = HeadNorm(spec.head_size, eps=1e-6) if self.core.qk_norm else None
        self.key_norm = HeadNorm(spec.head_size, eps=1e-6) if self.core.qk_norm else None
        self.output = ResidualLinear(d, d, bias=spec.bias, n_layers=spec.n_layers)

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        return self._gated(self.core(*self._projected(x, rotate), key_padding_mask), x)

    def new_cache(self, batch: int, capacity: int) -> LayerCache | None:
        return self.core.new_cache(batch, capacity, heads=self._heads, size=self.head_size, like=self.value.weight)

    def cache_numbers(self, length: int) -> int | None:
        return self.core.cache_numbers(length, heads=self._heads, size=self.head_size)

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        mixed = self.core.extend(*self._projected(x, context.rotate), cache, cast(Step, context.step))
        return self._gated(mixed, x)

    @property
    def _heads(self) -> int:
        """Of keys, in each branch."""
        return self.key.out_features // (len(BRANCHES) * self.head_size)

    def _projected(self, x: Tensor, rotate: Rotate) -> tuple[Tensor, Tensor, Tensor]:
        branches = len(BRANCHES)
        q = normed(split_heads(self.query(x), self.head_size), self.query_norm)
        keys = split_heads(self.key(x), branches * self.head_size).unflatten(-1, (branches, self.head_size))
        compressed, *others = normed(keys, self.key_norm).unbind(-2)
        q = scaled(q, self.query_factor)
        turned, keys = rotate(q, torch.cat(others, dim=1))
        k = torch.cat([compressed, *keys.chunk(len(others), dim=1)], dim=-1)
        v = split_heads(self.value(x), branches * self.head_size)
        return torch.cat([q, *[turned] * len(others)], dim=-1), k, v

    def _gated(self, mixed: Tensor, x: Tensor) -> Tensor:
        branches = len(BRANCHES)
        gates = self.gate(x).sigmoid().unflatten(-1, (-1, branches)).transpose(1, 2)  # (B, H, T, branches)
        out: Tensor = self.output(join_heads((mixed.unflatten(-1, (branches, -1)) * gates.unsqueeze(-1)).sum(-2)))
        return out
