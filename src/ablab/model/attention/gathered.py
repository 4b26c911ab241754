"""Softmax attention to a few keys for each query, which are gathered instead of the others being hidden."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, pad

from ablab.model.attention.base import bounded, softmax_of
from ablab.model.attention.dense import softmax_attention
from ablab.model.attention.kernel import without_autocast, working_dtype
from ablab.model.attention.selection import Selection


class Gathered(NamedTuple):
    """The keys that queries see, for each head of keys or for all of them together (G)."""

    keys: Tensor  # (B, G, S, n), places in the sequence
    seen: Tensor  # bool (B, G, S, n), each key once


def listed(chosen: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The places of what is chosen, at most `count` of (B, G, S, J): (B, G, S, count), and whether each is chosen."""
    found, places = chosen.byte().topk(min(count, chosen.shape[-1]), sorted=False)
    missing = count - found.shape[-1]
    return pad(places, (0, missing)), pad(found, (0, missing)).bool()


def with_window(chosen: Tensor, selection: Selection, positions: Tensor, there: Tensor) -> tuple[Gathered, Tensor]:
    """The keys chosen by queries at `positions` (S,) and those of their windows; and which of the former are chosen.

    Args:
        chosen: bool (B, G, S, T), none of which is in the window.
        there: bool (B, T).
    """
    B, G, _, T = chosen.shape
    places, found = listed(chosen, selection.count)
    around = selection.around(positions)
    within = (around >= 0) & (around < T) & selection.near(positions[:, None] - around)
    around = around.clamp(0, T - 1)
    within = (within & there[:, around]).unsqueeze(1)
    near = [x.expand(B, G, -1, -1) for x in (around, within)]
    return Gathered(torch.cat([places, near[0]], -1), torch.cat([found, near[1]], -1)), found


def gathered_attention(
    q: Tensor, k: Tensor, v: Tensor, given: Gathered, *, dropout: float, sinks: Tensor | None, softcap: float | None
) -> Tensor:
    """Attention of queries to the keys that they see.

    Args:
        q: (B, H, S, D).
        k: (B, K, T, D) in one piece of memory, as v.
        sinks: (H,).

    Returns:
        (B, H, S, Dv), zero where a query sees nothing.
    """
    seen = given.seen.expand(-1, k.shape[1], -1, -1)
    out = softmax_attention(
        _grouped(q, k.shape[1]), _taken(k, given), _taken(v, given), mask=seen.flatten(0, 2)[:, None, None],
        dropout=dropout, sinks=_sinks(sinks, seen), softcap=softcap,
    )  # fmt: skip
    return _apart(out, seen)


def gathered_weights(q: Tensor, k: Tensor, given: Gathered, *, sinks: Tensor | None, softcap: float | None) -> Tensor:
    """The weights of the same: (B, H, S, n)."""
    seen = given.seen.expand(-1, k.shape[1], -1, -1)
    products = _grouped(q, k.shape[1]) @ _taken(k, given).transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = bounded(products, softcap).to(working_dtype(q))
    return _apart(softmax_of(scores, _sinks(sinks, seen), seen.flatten(0, 2)[:, None, None]), seen)


def gathered_values(weights: Tensor, v: Tensor, given: Gathered) -> Tensor:
    """Mix v by weights (B, H, S, n): (B, H, S, Dv)."""
    mixed = _grouped(weights.to(v.dtype), v.shape[1]) @ _taken(v, given)
    return _apart(mixed, given.seen.expand(-1, v.shape[1], -1, -1))


def gathered_index(q: Tensor, weight: Tensor, k: Tensor, places: Tensor) -> Tensor:
    """`ablab.model.attention.indexer.index_scores` for some of the keys, at places (B, 1, S, n): (B, S, n)."""
    with without_autocast(q.device):
        exact = torch.promote_types(q.dtype, torch.float32)
        B, _, J, D = k.shape
        rows = torch.arange(B, device=k.device)[:, None, None] * J + places[:, 0]
        keys = embedding(rows, k.reshape(B * J, D)).to(exact)  # (B, S, n, D)
        alike = (q.to(exact).transpose(1, 2) @ keys.transpose(-1, -2)).relu()  # (B, S, heads, n)
        return (weight.to(exact).transpose(1, 2).unsqueeze(2) @ alike).squeeze(2)


def _taken(x: Tensor, given: Gathered) -> Tensor:
    """What x (B, K, T, D) has at the keys of each query: (B * K * S, 1, n, D)."""
    B, K, T, _ = x.shape
    rows = torch.arange(B * K, device=x.device).view(B, K, 1, 1) * T + given.keys
    return embedding(rows, x.flatten(0, 2)).flatten(0, 2).unsqueeze(1)


def _grouped(q: Tensor, heads: int) -> Tensor:
    """(B, H, S, D) -> (B * K * S, 1, H / K, D): the heads of a group stand where others have queries."""
    group: Tensor = q.unflatten(1, (heads, -1)).transpose(2, 3).flatten(0, 2).unsqueeze(1)
    return group


def _apart(x: Tensor, seen: Tensor) -> Tensor:
    """(B * K * S, 1, H / K, D) -> (B, H, S, D)."""
    heads: Tensor = x.squeeze(1).unflatten(0, seen.shape[:3]).transpose(2, 3).flatten(1, 2)
    return heads


def _sinks(sinks: Tensor | None, seen: Tensor) -> Tensor | None:
    if sinks is None:
        return None
    B, K, S = seen.shape[:3]
    return sinks.view(1, K, 1, -1).expand(B, -1, S, -1).flatten(0, 2).unsqueeze(1)
