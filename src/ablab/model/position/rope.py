"""Rotary positions (Su et al. 2021, section 3.2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.model.position.base import Position, rows
from ablab.model.spec import LayerSpec


class Rope(Position):
    """Rotates pair i of each query and key at position t by t * base^(-2i / D), so that scores see distances only.

    Deviation: coordinate i is paired with i + D/2 instead of 2i with 2i + 1 (equation 34). The two differ by a fixed
    permutation of the coordinates, which the projections before absorb; halves need no interleaving in memory.

    Args:
        base: of the wavelengths, which run from 2 pi to 2 pi base; above 1.

    Raises:
        ValueError: the head size is odd, so that its coordinates cannot be paired.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, spec: LayerSpec, *, base: float) -> None:
        super().__init__()
        if base <= 1:
            raise ValueError(f"base must be above 1, got {base}")
        if spec.head_size % 2:
            raise ValueError(
                f"rotary positions need an even head size, but model.d_model={spec.d_model} over "
                f"model.n_heads={spec.n_heads} is {spec.head_size}: choose other sizes"
            )
        pair = torch.arange(0, spec.head_size, 2, dtype=torch.float64)
        angle = torch.arange(spec.max_length, dtype=torch.float64)[:, None] * base ** (-pair / spec.head_size)
        dtype = torch.get_default_dtype()
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], dim=-1).to(dtype), persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], dim=-1).to(dtype), persistent=False)

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = (rows(table, 0, q.shape[2]).to(q.dtype) for table in (self.cos, self.sin))
        half = q.shape[3] // 2
        # Rolling by half swaps the two members of each pair; `sin` carries the minus sign of the first.
        return q * cos + q.roll(half, -1) * sin, k * cos + k.roll(half, -1) * sin
