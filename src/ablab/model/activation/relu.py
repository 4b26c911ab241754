"""ReLU (Nair and Hinton 2010): the feed-forward activation of Vaswani et al. 2017, section 3.3."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.spec import LayerSpec


class ReLU(nn.Module):
    """max(x, 0), elementwise."""

    by_unit = True

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)
