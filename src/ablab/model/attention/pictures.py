"""Attention weights as a picture: a row for each query, a column for each key, the heads side by side."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool1d

MOST_COLUMNS = 256
FRAME = 96  # brightness of the lines between heads: no weight's own black or white


def spread(length: int, most: int, device: torch.device) -> Tensor:
    """At most `most` positions, evenly from the first to the last, so that their mean is close to that of all."""
    places = torch.linspace(0, length - 1, min(length, most), device="cpu", dtype=torch.float64)
    return places.round().long().to(device)


def columns_of(weights: Tensor) -> Tensor:
    """Weights (H, S, T) with at most `MOST_COLUMNS` columns: of neighbouring keys the heaviest, so that single far keys
    stay visible."""
    return weights if weights.shape[-1] <= MOST_COLUMNS else adaptive_max_pool1d(weights, MOST_COLUMNS)


def picture(weights: Tensor) -> Tensor:
    """Attention weights (H, S, C), at least 0, as a grey picture: uint8 (height, width).

    Heads lie side by side in reading order, a row per query from the top and a column per key. White is the heaviest
    key of each query, and brightness the square root of a weight relative to it: a key with a hundredth of that weight
    is still a tenth as bright, and queries that attend to many keys are as visible as those that attend to few.
    Brightness can be compared along a row, not between rows.
    """
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


def exact(x: Tensor) -> Tensor:
    """Numbers in single precision at least; what is none stays as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x
