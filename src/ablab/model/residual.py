"""The last linear layer of each part of a block, whose output is added to the residual stream."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ablab.model.initialisation import STANDARD_DEVIATION


class ResidualLinear(nn.Linear):
    """A linear layer whose output is added to the residual stream, which 2 n_layers such layers feed."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, n_layers: int) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.n_layers = n_layers

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Scaled so that the stream's variance at the start of training does not grow with the number of layers."""
        if name == "weight":
            parameter.normal_(std=STANDARD_DEVIATION / math.sqrt(2 * self.n_layers), generator=generator)
        else:
            parameter.zero_()
