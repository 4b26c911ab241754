"""Sinusoidal positions (Vaswani et al. 2017, section 3.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.model.position.base import Position, rows
from ablab.model.spec import LayerSpec


class Sinusoidal(Position):
    """Adds `scale` times the fixed table

        table[t, 2i] = sin(t / 10000^(2i / d_model)),   table[t, 2i + 1] = cos(t / 10000^(2i / d_model)).

    Deviation: the paper adds the table at scale 1 to embeddings multiplied by sqrt(d_model) (section 3.4). Here the
    embeddings are left as small as for every other option, and the table is scaled to them instead.

    Args:
        scale: amplitude of the table, above 0.
    """

    table: Tensor

    def __init__(self, spec: LayerSpec, *, scale: float) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        time = torch.arange(spec.max_length, dtype=torch.float64)
        even = torch.arange(0, spec.d_model, 2, dtype=torch.float64)
        angle = time[:, None] / 10000 ** (even / spec.d_model)
        table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, : spec.d_model]
        self.register_buffer("table", (scale * table).to(torch.get_default_dtype()), persistent=False)

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        return x + rows(self.table, offset, x.shape[1]).to(x.dtype)
