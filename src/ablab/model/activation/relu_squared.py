"""Squared ReLU (So et al. 2021, "Primer", section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.spec import LayerSpec


class SquaredReLU(nn.Module):
    """max(x, 0)^2, elementwise."""

    by_unit = True

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).square()
