"""Components of this project. Each is one class here, and one file in `conf`, by which it is chosen and set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.spec import LayerSpec


class Snake(nn.Module):
    """x + sin(a x)^2 / a, an activation that also learns what repeats (Ziyin et al. 2020, equation 3).

    Args:
        spec: sizes of the model, and the number of the layer: what every component is told.
        frequency: a, in radians for each unit of x.
    """

    by_unit = True  # each hidden unit by itself, so that units may be shared out among processes

    def __init__(self, spec: LayerSpec, *, frequency: float = 1.0) -> None:
        super().__init__()
        if not frequency > 0:
            raise ValueError(f"activation.frequency={frequency}: must be more than 0")
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:  # (B, T, d_ff)
        return x + torch.sin(self.frequency * x).square() / self.frequency
