"""Queries and keys in the order of their buckets, as FlexAttention is to see them, without waiting for the device.

The same order and the same intervals as `ablab.model.attention.buckets.sort` gives, by a fixed number of operations on
whole tensors. What is one list of items there is (rounds, B, heads, T) here: the T queries or keys of a head of a
sequence have the T places or slots of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class InOrder(NamedTuple):
    """Queries and keys of each round, sorted by bucket and position within their sequence."""

    queries: Tensor  # (rounds, B, H, T) the position of the query at each place
    places: Tensor  # (rounds, B, H, T) the place of the query of each position
    keys: Tensor  # (rounds, B, K, T) the position of the key at each slot
    slots: Tensor  # (rounds, B, K, T) the slot of the key of each position
    lower: Tensor  # (rounds, B, H, T) the first slot that the query at each place sees, int32
    upper: Tensor  # (rounds, B, H, T) the last one, int32; below `lower` where it sees none


def in_order(queries: Tensor, keys: Tensor | None, count: int, back: int, ahead: int) -> InOrder:
    """Sort all rounds at once; see `ablab.model.attention.buckets.Buckets`.

    Args:
        queries: buckets, (rounds, B, H, T).
        keys: buckets, (rounds, B, K, T), K dividing H; None: as those of the queries.
    """
    return _together(queries, count, back, ahead) if keys is None else _apart(queries, keys, count, back, ahead)


def _together(queries: Tensor, count: int, back: int, ahead: int) -> InOrder:
    shape, T, each, numbers = queries.shape, queries.shape[-1], count + 1, _numbers(queries)
    codes = (queries + numbers * each).flatten().to(_integer(numbers.numel() * each))
    codes, items = codes.sort(stable=True)
    slots = torch.arange(len(items), device=queries.device) % T
    positions, places = (items % T).view(shape), torch.empty_like(items).scatter_(0, items, slots).view(shape)
    slots = slots.view(shape)
    lower, upper = torch.maximum(torch.searchsorted(codes, codes).view(shape) - numbers * T, slots - back), slots - 1
    if ahead:
        ends = torch.searchsorted(codes, codes, right=True).view(shape) - numbers * T
        upper = torch.minimum(ends, slots + 1 + ahead) - 1
    padded = (codes % each == count).view(shape)  # who would see each other
    upper = upper.masked_fill(padded, -1)
    return InOrder(positions, places, positions, places, lower.int(), upper.int())


def _apart(queries: Tensor, keys: Tensor, count: int, back: int, ahead: int) -> InOrder:
    """Queries and keys are sorted as if they were sequences of one batch. The place of a query among the keys is then
    looked up."""
    shape, T, each = queries.shape, queries.shape[-1], count + 1
    asking, offering = _numbers(queries), _numbers(keys) + queries.shape[:3].numel()
    codes = torch.cat([(queries + asking * each).flatten(), (keys + offering * each).flatten()])
    codes, items = codes.to(_integer((offering.numel() + asking.numel()) * each)).sort(stable=True)
    positions, slots = items % T, torch.arange(len(items), device=keys.device) % T
    places = torch.empty_like(items).scatter_(0, items, slots)
    n = queries.numel()
    q_positions, q_places = positions[:n].view(shape), places[:n].view(shape)

    beside = offering.repeat_interleave(shape[2] // keys.shape[2], 2)  # the keys that queries are for, as sequences
    bucket = (codes[:n].view(shape) - asking * each + beside * each) * T
    place = bucket + q_positions
    wanted = [bucket, place, *([place + 1, bucket + T] if ahead else [])]  # the last: where the next bucket begins
    found = torch.searchsorted(codes[n:].long() * T + positions[n:], torch.stack(wanted))
    found = found - (beside - asking.numel()) * T
    lower, upper = torch.maximum(found[0], found[1] - back), found[1] - 1
    if ahead:
        upper = torch.minimum(found[3], found[2] + ahead) - 1
    k_positions, k_slots = positions[n:].view(keys.shape), places[n:].view(keys.shape)
    return InOrder(q_positions, q_places, k_positions, k_slots, lower.int(), upper.int())


def _integer(kinds: int) -> torch.dtype:
    return torch.int32 if kinds < 2**31 else torch.int64  # 32 bits sort faster


def _numbers(buckets: Tensor) -> Tensor:
    """Of the sequences, (rounds, B, heads, 1)."""
    shape = buckets.shape[:3]
    return torch.arange(shape.numel(), device=buckets.device).view(*shape, 1)


def met_before(order: InOrder) -> tuple[Tensor, Tensor, Tensor] | None:
    """What earlier rounds have brought, in the order of all rounds; None where there is one round.

    Returns:
        Of all rounds but the last the slots of the keys there (rounds - 1, rounds, B, K, T), and the first and the last
        one that the queries saw there (rounds - 1, rounds, B, H, T), int32, none where that is no earlier round.
    """
    rounds = len(order.queries)
    if rounds == 1:
        return None

    def ordered(values: Tensor, rows: Tensor) -> Tensor:
        shape = rounds - 1, *rows.shape
        return values[:-1, None].expand(shape).gather(-1, rows.expand(shape))

    slots = ordered(order.slots, order.keys)
    places = slots if order.places is order.slots else ordered(order.places, order.queries)
    lower, upper = (x[:-1, None].expand(places.shape).gather(-1, places) for x in (order.lower, order.upper))
    number = torch.arange(rounds, device=places.device)
    earlier = (number[:-1, None] < number).view(rounds - 1, rounds, 1, 1, 1)
    return slots.int(), lower, torch.where(earlier, upper, -1)
