"""What the implementations claim to compute, as their definitions read: dense, for a few queries, in float64.

Everything is a weight m beside exp(score): 0 for a key that is not seen, 1 for one that is, 2 for one that counts
twice, and what lies between where an edge is soft. Shapes are broadcastable to (B, H, S, T), S queries at `positions`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ablab.bench.attention.implementation import Expected


def weighted(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, weights: Tensor, *, scale: float | None = None
) -> Expected:
    """sum_j m_ij exp(s_ij) v_j / sum_j m_ij exp(s_ij) with s = scale q k^T, by default 1 / sqrt(D)."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    rows = q[:, :, positions].double()
    scores = scale * rows @ k.double().transpose(-1, -2)
    seen = (weights > 0).expand_as(scores)
    most = scores.detach().masked_fill(~seen, -math.inf).amax(-1, keepdim=True)
    unnormalised = weights * (scores - most).masked_fill(~seen, -math.inf).exp()
    out = unnormalised @ v.double() / unnormalised.sum(-1, keepdim=True)
    keys = seen.sum(-1)
    return Expected(out=out, keys=keys.double().mean().item(), alone=keys == 1)


def distances(positions: Tensor, length: int) -> Tensor:
    """Query minus key: (S, T)."""
    return positions[:, None] - torch.arange(length, device=positions.device)


def everything(positions: Tensor, length: int, *, causal: bool) -> Tensor:
    """Full attention."""
    distance = distances(positions, length)
    return (distance >= 0).double() if causal else torch.ones_like(distance, dtype=torch.float64)


def window(positions: Tensor, length: int, *, keys: int, causal: bool) -> Tensor:
    """The `keys` keys up to and including the query's own; where not causal, also `keys` on either side of it."""
    distance = distances(positions, length)
    return ((distance >= 0) & (distance < keys) if causal else distance.abs() <= keys).double()


def chunks_back(positions: Tensor, length: int, *, chunk: int, back: int) -> Tensor:
    """Causal; a query sees its own chunk of the sequence and `back` chunks before it."""
    apart = positions[:, None] // chunk - torch.arange(length, device=positions.device) // chunk
    return ((apart <= back) & (distances(positions, length) >= 0)).double()


def bucket_mates(q_buckets: Tensor, k_buckets: Tensor, positions: Tensor, *, nearest: int) -> Tensor:
    """Causal; in each round the `nearest` last keys before the query in the query's bucket, each key once.

    Args:
        q_buckets: (B, H, rounds, T), as k_buckets.
    """
    rounds, length = q_buckets.shape[2:]
    before = distances(positions, length) > 0
    seen = torch.zeros((), dtype=torch.bool, device=positions.device)
    for round_ in range(rounds):
        mates = (q_buckets[:, :, round_, positions, None] == k_buckets[:, :, round_, None, :]) & before
        behind = mates.long().flip(-1).cumsum(-1).flip(-1)  # mates from this key up to the query
        seen = seen | (mates & (behind <= nearest))
    return seen.double()


def sorted_chunks(buckets: Tensor, positions: Tensor, *, chunk: int) -> Tensor:
    """Causal; a query sees its own chunk and the one before it of all keys of all rounds, sorted by bucket.

    The public implementations of Reformer sort the keys of all rounds into one list, in which the chunk before the
    first is the last, and count a key as often as the rounds bring it.

    Args:
        buckets: (B, H, rounds, T), the rounds' numbers made distinct by an offset.
    """
    B, H, rounds, T = buckets.shape
    codes = buckets.flatten(2) * T + torch.arange(T, device=buckets.device).repeat(rounds)
    order = codes.argsort(-1)  # (B, H, rounds * T)
    slot = torch.empty_like(order).scatter_(2, order, torch.arange(rounds * T, device=order.device).expand_as(order))
    chunks = (order % T).view(B, H, -1, chunk)  # the position of each sorted key
    count = torch.zeros(B, H, len(positions), T, dtype=torch.float64, device=buckets.device)
    for round_ in range(rounds):
        own = slot.view(B, H, rounds, T)[:, :, round_, positions] // chunk  # (B, H, S)
        for each in (own, (own - 1) % chunks.shape[2]):
            seen = chunks.gather(2, each.unsqueeze(-1).expand(-1, -1, -1, chunk))
            count.scatter_add_(3, seen, torch.ones_like(seen, dtype=torch.float64))
    return count * (distances(positions, T) >= 0)


def self_only_if_alone(weights: Tensor, positions: Tensor) -> Tensor:
    """A query's own key counts, once, only where no other does."""
    own = distances(positions, weights.shape[-1]) == 0
    others = weights.masked_fill(own, 0)
    return torch.where((others > 0).any(-1, keepdim=True), others, own.to(others.dtype))
