"""Definitions of what the implementations claim to compute: dense, for a few queries, in float64.

Everything is a weight m beside exp(score): 0 for a key that is not seen, 1 for one that is, 2 for one that counts
twice, and what lies between where an edge is soft. Shapes are broadcastable to (B, H, S, T), S queries at `positions`.
No implementation is timed before it has computed what it claims to compute (`check`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ablab.bench.attention.implementation import Attention, Expected


def weighted(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    weights: Tensor,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
) -> Expected:
    """sum_j m_ij exp(s_ij) v_j / sum_j m_ij exp(s_ij) with s = scale q k^T, by default 1 / sqrt(D).

    Args:
        sinks: (H,), each adds its exp to the sums below of its head.
        softcap: bounds s by softcap tanh(s / softcap).
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    rows = q[:, :, positions].double()
    scores = scale * rows @ k.double().transpose(-1, -2)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    seen = (weights > 0).expand_as(scores)
    most = scores.detach().masked_fill(~seen, -math.inf).amax(-1, keepdim=True)
    unnormalised = weights * (scores - most).masked_fill(~seen, -math.inf).exp()
    total = unnormalised.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + (sinks.detach().double()[:, None, None] - most).exp()
    out = unnormalised @ v.double() / total
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


SAMPLE = 32  # queries that are compared; their gradients reach all keys
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of the largest number
# Public implementations of Reformer hide a query's own key by taking 5e4 or 1e5 from its score. Where the query has no
# other key, that leaves so few digits of single precision.
TOLERANCE_ALONE = 1e-2


class WrongResultError(Exception):
    """An implementation does not compute what it claims to; the message says by how much."""


def sample(length: int) -> Tensor:
    """Positions: the first one, the last one and the middles of equal stretches, so that means over them are fair."""
    count = min(SAMPLE, length)
    middles = (torch.arange(count) * 2 + 1) * length // (2 * count)
    return torch.cat([middles, torch.tensor([0, length - 1])])


def check(attention: Attention, q: Tensor, k: Tensor, v: Tensor, grad: Tensor, *, backward: bool) -> float:
    """Compare outputs and, with `backward`, gradients of q, k and v, with naive dense attention at a few queries.

    Args:
        q: (B, H, T, D), as k, v and grad, the gradient of the output.

    Returns:
        The keys that a query sees, mean over the queries compared.

    Raises:
        WrongResultError: they differ.
    """
    positions = sample(q.shape[2]).to(q.device)
    q, k, v = (x.detach().requires_grad_(backward) for x in (q, k, v))
    with torch.set_grad_enabled(backward):
        out = attention(q, k, v)
        expected = attention.expected(q, k, v, positions)
    found, tolerance = out[:, :, positions], TOLERANCE[out.dtype]
    alone = expected.alone.expand(found.shape[:3])
    _compare("output", found[~alone], expected.out[~alone], tolerance)
    _compare("output of queries that see one key", found[alone], expected.out[alone], max(tolerance, TOLERANCE_ALONE))
    if backward:
        rows = grad[:, :, positions].masked_fill(alone.unsqueeze(-1), 0)
        got = torch.autograd.grad(found, (q, k, v), rows, allow_unused=True)
        right = torch.autograd.grad(expected.out, (q, k, v), rows.double(), allow_unused=True)
        zero = torch.zeros_like(q)
        for name, one, other in zip(("queries", "keys", "values"), got, right, strict=True):
            _compare(
                f"gradient of the {name}", zero if one is None else one, zero if other is None else other, tolerance
            )
    return expected.keys


def _compare(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    if found.numel() == expected.numel() == 0:
        return
    if found.shape != expected.shape:
        raise WrongResultError(f"wrong {what}: of shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    error = (found.double() - expected.double()).abs().max().item()
    allowed = tolerance * max(expected.abs().max().item(), 1e-30)
    if not error <= allowed:
        raise WrongResultError(f"wrong {what}: off naive attention by {error:.1e}, where {allowed:.1e} is allowed")
