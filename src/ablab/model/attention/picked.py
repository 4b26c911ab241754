"""Attention of new tokens to the blocks of cached keys that they have picked."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.model.attention.base import AttentionCore, by_query, repeat_heads
from ablab.model.attention.blocks import tokens_of
from ablab.model.attention.cache import KeyValueCache, Step
from ablab.model.attention.dense import softmax_attention
from ablab.model.attention.gathered import Gathered, gathered_attention, listed
from ablab.model.attention.selection import Selection

# Where new tokens together see fewer than one key in so many of those that there are, theirs are gathered.
GATHER_FROM = 2


def places(step: Step) -> Tensor:
    """The positions of new tokens, (S,), or (B, 1, S) where samples differ: broadcast to all heads either way."""
    return step.positions[0] if step.alike else step.positions.unsqueeze(1)


def picked_attention(
    core: AttentionCore,
    q: Tensor,
    cache: KeyValueCache,
    chosen: Tensor,
    positions: Tensor,
    selection: Selection,
    total: int,
) -> Tensor:
    """Causal attention to the tokens of chosen blocks and of a window, up to the query's own.

    Args:
        core: whose switches it has.
        q: (B, H, S, D), at `positions`, (S,) or (B, 1, S).
        cache: of all tokens, of which a sample has `total` at most.
        chosen: bool (B, G, S, J), by each head of keys or by all heads together.

    Returns:
        (B, H, S, Dv).
    """
    seen = q.shape[2] * (selection.count * selection.block + selection.window)
    attend = _gathered if seen * GATHER_FROM <= total else _hidden
    return attend(core, q, cache, chosen, positions.unsqueeze(-1), selection, total)


def grouped_attention(core: AttentionCore, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention with the switches of a core.

    Args:
        q: (B, H, S, D); k (B, K, L, D) and v (B, K, L, Dv) with K dividing H.
        seen: bool (B, G, S, L), of each head of keys or of all together.

    Returns:
        (B, H, S, Dv).
    """
    if q.shape[2] > 1:
        seen = seen if seen.shape[1] == 1 else repeat_heads(seen, q.shape[1])
        return softmax_attention(q, k, v, mask=seen, sinks=by_query(core.sinks), softcap=core.softcap)
    # The heads of a group see the same: they stand where others have queries, and keys are read once.
    group = q.squeeze(2).unflatten(1, (k.shape[1], -1))
    sinks = None if core.sinks is None else core.sinks.unflatten(0, (k.shape[1], -1))
    return softmax_attention(group, k, v, mask=seen, sinks=sinks, softcap=core.softcap).flatten(1, 2).unsqueeze(2)


def _hidden(
    core: AttentionCore,
    q: Tensor,
    cache: KeyValueCache,
    chosen: Tensor,
    at: Tensor,
    selection: Selection,
    total: int,
) -> Tensor:
    distance = at - torch.arange(total, device=q.device)
    seen = tokens_of(chosen, selection.block, total) & (distance >= 0) | selection.near(distance)
    k, v = cache.keys.tensor[:, :, :total], cache.values.tensor[:, :, :total]
    return grouped_attention(core, q, k, v, seen)


def _gathered(
    core: AttentionCore,
    q: Tensor,
    cache: KeyValueCache,
    chosen: Tensor,
    at: Tensor,
    selection: Selection,
    total: int,
) -> Tensor:
    blocks, found = listed(chosen, selection.count)
    within = torch.arange(selection.block, device=q.device)
    keys = (blocks.unsqueeze(-1) * selection.block + within).flatten(-2)
    distance = at - keys
    seen = found.repeat_interleave(selection.block, -1) & (distance >= 0) & ~selection.near(distance)
    if selection.window:
        near = (at - torch.arange(selection.window, device=q.device)).expand(*keys.shape[:3], -1)
        keys, seen = torch.cat([keys, near], -1), torch.cat([seen, near >= 0], -1)
    given = Gathered(keys.clamp(0, total - 1), seen)
    k, v = cache.keys.tensor, cache.values.tensor
    return gathered_attention(q, k, v, given, dropout=0.0, sinks=core.sinks, softcap=core.softcap)
