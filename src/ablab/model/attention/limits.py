"""What a query does not see of the keys beside it: those that an earlier round has brought, and those too near."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ablab.model.attention.buckets import Buckets, InOrder
from ablab.model.attention.kernel import FLOOR

# Slots and positions are compared by squares, whose differences are at least 1/4 and, within 2^20 tokens, below 2^40.
# Times this, the smallest hides a score as FLOOR does, and the largest is still finite in single precision.
HIDDEN = -4 * FLOOR


@dataclass(frozen=True)
class Limit:
    """A query sees only keys whose value differs from its own by more than a margin."""

    keys: Tensor  # (N,) values
    queries: Tensor  # (N, 2) values, and the squared margins times -HIDDEN


def by_item(items: Tensor, values: Tensor) -> Tensor:
    """(..., N) in the order of `items` -> (..., N)."""
    return torch.empty_like(values, memory_format=torch.contiguous_format).scatter_(-1, items, values)


def earlier(order: InOrder, reach: Tensor, length: int) -> list[Limit]:
    """For each round but the last: what it brings is not seen again.

    Args:
        reach: (rounds, N), half of the interval's length, squared, times HIDDEN.
    """
    slots = torch.arange(order.keys.shape[1], device=order.keys.device)
    first = slots // length * length  # of the sequence
    slot = (slots - first).to(reach.dtype)
    found = []
    for keys, queries, lower, upper, margin in zip(
        order.keys[:-1], order.queries, order.lower, order.upper, reach, strict=False
    ):
        middle = (lower + upper - 2 * first).to(reach.dtype) / 2
        of_queries = torch.stack([by_item(queries, middle), by_item(queries, -margin)], -1)
        found.append(Limit(by_item(keys, slot), of_queries))
    return found


def near(buckets: Buckets, q: Tensor) -> list[Limit]:
    """Positions too near to be seen; without `beyond` and where causal, the intervals know."""
    if buckets.beyond is None and not buckets.ahead:
        return []
    B, T, H, _ = q.shape
    positions = torch.arange(T, device=q.device).view(1, T, 1).expand(B, T, H).to(q.dtype)
    beyond = torch.ones((), device=q.device) if buckets.beyond is None else buckets.beyond.expand(B, H, T).mT
    margin = (beyond.to(q.dtype) - 0.5).square().mul(-HIDDEN).expand(B, T, H)
    return [Limit(positions.flatten(), torch.stack([positions, margin], -1).flatten(0, 2))]


def tilt(q: Tensor, slopes: Tensor) -> Limit:
    """Positions, and in the place of margins the slopes."""
    B, T, H, _ = q.shape
    positions = torch.arange(T, device=q.device).view(1, T, 1).expand(B, T, H).to(q.dtype)
    return Limit(positions.flatten(), torch.stack([positions, slopes.expand(B, T, H)], -1).flatten(0, 2))
