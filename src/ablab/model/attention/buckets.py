"""Items of one bucket, side by side: sorting, and what each query sees of the sorted keys.

Items (one per batch element, position and head) are sorted by round, sequence, bucket and position, all in one sort.
What a query sees in a round is then an interval of the sorted keys, cut to the bucket and to the nearest few in it. It
depends on earlier keys of the bucket only, so that what a causal query sees does not depend on later positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """A rule of who sees whom: the nearest keys of its bucket before it and, where not causal, after it; never its own.

    Bucket numbers are (rounds, B, H, T). `count` itself is the number of the bucket of padded keys, which no query has.
    """

    queries: Tensor
    keys: Tensor | None  # None: as the queries
    count: int
    back: int  # keys before the query
    ahead: int  # keys after it; 0 where causal
    beyond: Tensor | None = None  # (B, H, T) or broadcastable: keys must be at least this many positions away

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(rounds, B, T, H), the order in which items are numbered."""
        rounds, B, H, T = self.queries.shape
        return rounds, B, T, H


@dataclass(frozen=True, kw_only=True)
class InOrder:
    """Queries and keys of each round, sorted. There are N = B * T * H items and as many slots in a round.

    Sequences come one after another, so that those of sequence s (of B * H) have the slots from s * T on.
    """

    keys: Tensor  # (rounds, N) the item whose key stands at each slot
    queries: Tensor  # (rounds, N) the items in the order of their queries; the rest is in this order too
    place: Tensor  # (rounds, N) how many keys stand before the query
    lower: Tensor  # (rounds, N) the first slot of each query's interval
    upper: Tensor  # (rounds, N) the last slot of it; below `lower` where it is empty


def sort(buckets: Buckets) -> InOrder:
    """Sort queries and keys, all rounds at once."""
    rounds, B, T, H = buckets.shape
    N, each, device = B * T * H, buckets.count + 1, buckets.queries.device
    kinds = rounds * B * H * each  # one for each round, sequence and bucket
    integer = torch.int32 if kinds < 2**31 else torch.int64  # 32 bits sort faster
    sequences = torch.arange(rounds * B * H, device=device, dtype=integer).view(rounds, B, 1, H) * each

    def codes(numbers: Tensor) -> Tensor:
        return (numbers.transpose(2, 3) + sequences).flatten()

    own: Tensor | int = 1  # how many of the keys not before a query are its own
    if buckets.keys is None:
        counted = codes(buckets.queries)
        queries = keys = stable_order(counted, kinds)
        looked = counted[queries]
        place = torch.arange(rounds * N, device=device)
    else:
        # Queries and keys take turns, so that a query comes before its own key where both have one bucket.
        asked, offered = codes(buckets.queries), codes(buckets.keys)
        items = stable_order(torch.stack([asked, offered], 1).flatten(), kinds)
        of_queries, of_keys = stable_order(items & 1, 2).chunk(2)
        queries, keys = items[of_queries] >> 1, items[of_keys] >> 1
        looked, counted = asked[queries], offered
        place = of_queries - torch.arange(rounds * N, device=device)
        if buckets.ahead:
            own = (asked == offered).long()[queries]
    ends = torch.bincount(counted, minlength=kinds).cumsum(0)
    begins = torch.cat([ends.new_zeros(1), ends])
    looked = looked.long()
    lower = torch.maximum(begins[looked], place - buckets.back)
    upper = torch.minimum(ends[looked], place + own + buckets.ahead) - 1 if buckets.ahead else place - 1
    if buckets.keys is None:  # padded queries would see each other
        upper = torch.where(looked % each == buckets.count, -1, upper)
    first = torch.arange(rounds, device=device).unsqueeze(1) * N  # item and slot of the round
    found = [x.view(rounds, N) - first for x in (keys, queries, place, lower, upper)]
    return InOrder(**dict(zip(("keys", "queries", "place", "lower", "upper"), found, strict=True)))


def stable_order(numbers: Tensor, limit: int) -> Tensor:
    """Return where the sorted numbers are, which lie between 0 and `limit`, exclusive."""
    if numbers.device.type == "cpu" and limit <= 2**16:  # NumPy has a radix sort for these, several times as fast
        return torch.from_numpy(numbers.numpy().astype("uint16").argsort(kind="stable"))
    return numbers.argsort(stable=True)


def seen_in_buckets(buckets: Buckets, positions: Tensor) -> Tensor:
    """The keys that the S queries at `positions` see: (B, H, S, T), bool. For measurements: dense."""
    order = sort(buckets)
    rounds, B, T, H = buckets.shape
    slots = torch.arange(B * T * H, device=positions.device).expand(rounds, -1)

    def by_item(items: Tensor, values: Tensor) -> Tensor:  # (rounds, N) -> (rounds, B, H, T)
        return torch.empty_like(values).scatter_(1, items, values).view(buckets.shape).transpose(2, 3)

    slot = by_item(order.keys, slots.contiguous()).unsqueeze(3)
    lower, upper = (by_item(order.queries, x)[..., positions, None] for x in (order.lower, order.upper))
    seen = ((slot >= lower) & (slot <= upper)).any(0)
    distance = (positions[:, None] - torch.arange(T, device=positions.device)).abs()
    least = 1 if buckets.beyond is None else buckets.beyond.expand(B, H, T)[..., positions, None]
    return seen & (distance >= least)
