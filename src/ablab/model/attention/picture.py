"""Attention weights as a grey picture: a square per head, a row per query from the top, a column per key.

White is the heaviest key of each query, and brightness the square root of a weight relative to it: a key with a
hundredth of that weight is still a tenth as bright, and queries that attend to many keys are as visible as those that
attend to few. Brightness can be compared along a row, not between rows.

Where there are more keys than `MOST_COLUMNS`, a column stands for neighbouring keys and shows the heaviest of them, so
that single far keys stay visible.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool1d

MOST_COLUMNS = 256
FRAME = 96  # brightness of the lines between heads: no weight's own black or white


def columns_of(weights: Tensor) -> Tensor:
    """Weights (H, S, T) with at most `MOST_COLUMNS` columns, the heaviest key of each."""
    return weights if weights.shape[-1] <= MOST_COLUMNS else adaptive_max_pool1d(weights, MOST_COLUMNS)


def picture(weights: Tensor) -> Tensor:
    """Weights (H, S, C), at least 0, as brightness: uint8 (height, width), heads side by side in reading order."""
    heads, rows, columns = weights.shape
    heaviest = weights.amax(-1, keepdim=True)
    share = torch.where(heaviest > 0, weights / heaviest, 0.0)
    pixels = (share.sqrt() * 255).round().to(torch.uint8)
    across = math.ceil(math.sqrt(heads))
    down = math.ceil(heads / across)
    grid = pixels.new_full((down * (rows + 1) - 1, across * (columns + 1) - 1), FRAME)
    for head in range(heads):
        top, left = head // across * (rows + 1), head % across * (columns + 1)
        grid[top : top + rows, left : left + columns] = pixels[head]
    return grid
