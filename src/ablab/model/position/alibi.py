"""Attention with linear biases (Press et al. 2022, "Train Short, Test Long")."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ablab.model.position.base import Position
from ablab.model.spec import LayerSpec


class ALiBi(Position):
    """Subtracts slope[h] |i - j| from the score of query i and key j in head h; nothing is added to the tokens.

    Slopes are 2^(-8 k / n) for k = 1 ... n in n heads, where n is a power of two; for other n those of the power of two
    below, and every second one of the power above, as in the paper's released code. Where the model is not causal the
    bias is symmetric.

    The bias is the attention's to add: cores that cannot (`AttentionCore.takes_slopes`) are refused.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.slopes: Tensor = torch.tensor(slopes_of(spec.n_heads), dtype=torch.float32)


def slopes_of(heads: int) -> list[float]:
    """One slope per head, falling in each of the two sequences that they are taken from."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (k + 1) / below) for k in range(below)]
    return slopes + [2 ** (-8 * (k + 1) / (2 * below)) for k in range(0, 2 * (heads - below), 2)]
