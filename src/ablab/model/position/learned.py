"""Learned absolute positions (Gehring et al. 2017, section 3.1): one trained vector per position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.position.base import Position, rows
from ablab.model.spec import LayerSpec


class Learned(Position):
    """Adds row t of a trained table (max_length, d_model) to the token at position t."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(spec.max_length, spec.d_model))

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        return x + rows(self.weight, offset, x.shape[1])
