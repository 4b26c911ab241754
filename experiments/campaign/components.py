"""An activation of which any number of variants are different models, none of them better than another."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from ablab.model.spec import LayerSpec


class Flipped(nn.Module):
    """relu(x) with the signs of about half of the hidden units turned round.

    Which units those are is drawn by `salt`. The weights behind them are as likely to be negative as positive, and so
    are the steps of the optimizer, so that a model with one salt is another model than one with another salt, and
    neither better nor worse on average: a difference is noise.
    """

    signs: Tensor

    def __init__(self, spec: LayerSpec, *, salt: int = 0) -> None:
        super().__init__()
        generator = random.Random(f"{salt} {spec.layer_index}")
        signs = [generator.choice((-1.0, 1.0)) for _ in range(spec.d_ff)]
        self.register_buffer("signs", torch.tensor(signs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * self.signs
