"""A component that asks for a penalty, for configs to name as their `_target_`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.spec import LayerSpec


class Shrinking(nn.Module):
    """ReLU with a slope, whose square it asks to be kept small: weakly enough to learn, strongly enough to show."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x.relu()

    def penalty(self) -> Tensor:
        return 3 * self.slope.square().sum()
