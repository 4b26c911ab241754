"""Attention among items of one bucket, in time that grows as length times bucket size (after sorting).

Items (one per batch element, head and position) are sorted by round, sequence, bucket and position, all in one sort.
What a query sees is then an interval of the sorted keys, cut to the bucket and to the nearest few in it. Queries that
stand together in their order look at keys that stand together in theirs: a block of queries shares one stretch of keys,
and one call of the kernel attends many blocks whose stretches are of one length.

An interval depends on earlier keys of the bucket only. How queries fall into blocks changes what is computed together,
and never what a query sees, so that what a causal query sees does not depend on later positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag, pad

from ablab.model.attention.kernel import attend, attend_backward

BLOCK = 32  # queries that share one stretch of keys
STEP = 32  # lengths of stretches are multiples of it
SLICE = 2**18  # scores computed by one call, so that all it needs stays in the cache
HIDDEN = 2.0**103  # a quarter of it, what falls short of the interval by least, still hides a score as FLOOR does


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Who sees whom: of its own bucket the nearest keys before it and, where not causal, after it; never its own key.

    Bucket numbers are (rounds, B, H, T). `count` itself is the number of the bucket of padded keys, which no query has.
    """

    queries: Tensor
    keys: Tensor | None  # None: as the queries
    count: int
    back: int  # keys before the query
    ahead: int  # keys after it; 0 where causal
    beyond: Tensor | None = None  # (B, H, T) or broadcastable: keys must be at least this many positions away


@dataclass(frozen=True, kw_only=True)
class _Order:
    """The sorted keys of all rounds, and each query's interval of them.

    There are M = rounds * N items, numbered by (round, b, h, t), and as many slots.
    """

    keys: Tensor  # (M,) the item whose key stands at each slot
    queries: Tensor  # (M,) the items in the order of their queries
    slot: Tensor  # (M,) the slot of each item's key
    begins: Tensor  # (M,) the first slot of each query's bucket
    lower: Tensor  # (M,) the first slot of each query's interval
    upper: Tensor  # (M,) the last slot of it; below `lower` where it is empty


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Blocks of queries, each beside its stretch of keys, ordered by round and by the length of the stretch."""

    queries: Tensor  # (blocks, BLOCK) items; any where unused
    first: Tensor  # (blocks, 1) the slot of the stretch's first key
    middle: Tensor  # (blocks, BLOCK, 1) of the query's interval, counted from the first key
    half: Tensor  # (blocks, BLOCK, 1) half of the interval's length less one; negative where it is empty or unused
    place: Tensor  # (M,) where each item's query stands in `queries`, taken as one dimension
    runs: list[tuple[int, int, int, int]]  # round, length of the stretches, first block, last block plus one


def hashed_forward(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets, scale: float) -> tuple[Tensor, Tensor]:
    """Attention over the union of what the rounds bring.

    Args:
        q: (B, T, H, D), contiguous, as k and v (B, T, H, Dv).

    Returns:
        (B, T, H, Dv) and the log-sum-exp (B, T, H).
    """
    run = _Run(q, buckets)
    queries, keys, values = q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)
    size = run.blocks.queries.numel()
    outs, sums = values.new_empty(size, v.shape[-1]), queries.new_empty(size)
    for part in run.parts():
        taken = part.take_queries(queries), part.take_keys(keys), part.take_keys(values)
        mixed, lse = attend(*taken, part.bias(), scale)
        outs[part.slots], sums[part.slots] = mixed.flatten(0, 2), lse.flatten()
    place = run.by_row(run.blocks.place)
    each = sums[place]
    total = each.logsumexp(-1)
    weights = (each - total.unsqueeze(-1)).exp_()
    merged = embedding_bag(place, outs, mode="sum", per_sample_weights=weights)
    return merged.view(v.shape), total.view(q.shape[:3])


def hashed_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, buckets: Buckets, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; `out` and `lse` may be those of more keys than these."""
    run = _Run(q, buckets)
    queries, keys, values = q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)
    grads, outs, sums = grad.flatten(0, 2), out.flatten(0, 2), lse.flatten()
    grad_q = queries.new_empty(run.blocks.queries.numel(), q.shape[-1])
    grad_k = keys.new_zeros(len(run.padded_keys), k.shape[-1])
    grad_v = values.new_zeros(len(run.padded_keys), v.shape[-1])
    for part in run.parts():
        dq, dk, dv = attend_backward(
            part.take_queries(grads),
            part.take_queries(queries),
            part.take_keys(keys),
            part.take_keys(values),
            part.take_queries(outs),
            sums[part.query_rows].unsqueeze(1),
            part.bias(),
            scale,
        )
        grad_q[part.slots] = dq.flatten(0, 2)
        grad_k.index_add_(0, part.key_slots.flatten(), dk.flatten(0, 2))
        grad_v.index_add_(0, part.key_slots.flatten(), dv.flatten(0, 2))
    place, slot = run.by_row(run.blocks.place), run.by_row(run.order.slot)
    found = [embedding_bag(index, x, mode="sum") for index, x in ((place, grad_q), (slot, grad_k), (slot, grad_v))]
    return found[0].view(q.shape), found[1].view(k.shape), found[2].view(v.shape)


class _Run:
    """One pass over all rounds."""

    def __init__(self, q: Tensor, buckets: Buckets) -> None:
        B, T, H, _ = q.shape
        rounds = len(buckets.queries)
        self.shape = (rounds, B, H, T)
        self.order = order = _sort(buckets)
        self.blocks = _block(order, rounds, buckets.back + buckets.ahead + 1, q.dtype)
        self.padded_keys = pad(order.keys, (0, 2 * (buckets.back + buckets.ahead + 1) + STEP))
        items = torch.arange(B * H * T, device=q.device)
        # Where each item's vector lies in (B, T, H), the same in every round.
        rows = items.view(B, T, H).transpose(1, 2).flatten()
        self.queries, self.keys = self.blocks.queries % len(items), self.padded_keys % len(items)
        self.query_rows, self.key_rows = rows[self.queries], rows[self.keys]
        self.earlier: list[_Limit] = []  # what each round but the last brings is not seen again
        if rounds > 1:
            # Slots are counted from the sequence's first, so that single precision holds them.
            base = torch.arange(rounds * B * H, device=q.device).repeat_interleave(T) * T
            middle = ((order.lower + order.upper) / 2 - base).to(q.dtype).view(rounds, -1)
            # And a bit more, so that a key at the very end of an interval counts as seen.
            half = ((order.upper - order.lower) / 2 + 0.25).to(q.dtype).view(rounds, -1)
            slot = (order.slot - base).to(q.dtype).view(rounds, -1)
            self.earlier = [self._limit(*of_round) for of_round in zip(slot[:-1], middle, half, strict=False)]
        self.near: _Limit | None = None  # where causal, the intervals know
        if buckets.ahead:
            positions = (items % T).to(q.dtype)
            least = torch.ones_like(positions)
            if buckets.beyond is not None:
                least = buckets.beyond.expand(B, H, T).flatten().to(q.dtype)
            self.near = self._limit(positions, positions, least)

    def _limit(self, keys: Tensor, queries: Tensor, margin: Tensor) -> _Limit:
        """From values by item, (N,)."""
        return _Limit(keys[self.keys], queries[self.queries].unsqueeze(2), margin[self.queries].unsqueeze(2))

    def by_row(self, per_item: Tensor) -> Tensor:
        """(M,) by item -> (N, rounds) by row of (B, T, H)."""
        return per_item.view(self.shape).permute(1, 3, 2, 0).reshape(-1, self.shape[0])

    def parts(self) -> Iterator[_Part]:
        for round_, stretch, start, stop in self.blocks.runs:
            size = max(1, SLICE // (BLOCK * stretch))
            for first in range(start, stop, size):
                yield _Part(self, round_, stretch, slice(first, min(first + size, stop)))


@dataclass(frozen=True)
class _Limit:
    """A query sees only keys whose value differs from its own by at least a margin."""

    keys: Tensor  # along the padded sorted keys
    queries: Tensor  # (blocks, BLOCK, 1)
    margin: Tensor  # (blocks, BLOCK, 1)


class _Part:
    """A few blocks of one round, with stretches of one length."""

    def __init__(self, run: _Run, round_: int, stretch: int, blocks: slice) -> None:
        self.run, self.round, self.blocks = run, round_, blocks
        self.slots = slice(blocks.start * BLOCK, blocks.stop * BLOCK)
        self.column = torch.arange(stretch, device=run.key_rows.device)
        self.key_slots = run.blocks.first[blocks] + self.column
        self.query_rows, self.key_rows = run.query_rows[blocks], run.key_rows[self.key_slots]

    def take_queries(self, x: Tensor) -> Tensor:
        """(rows, D) -> (blocks, 1, BLOCK, D)."""
        return embedding(self.query_rows, x).unsqueeze(1)

    def take_keys(self, x: Tensor) -> Tensor:
        """(rows, D) -> (blocks, 1, stretch, D)."""
        return embedding(self.key_rows, x).unsqueeze(1)

    def bias(self) -> Tensor:
        """(blocks, 1, BLOCK, stretch): 0 where the query sees the key here and in no earlier round, else very negative.

        How far each key lies inside the interval: at least 0 inside, at most -1/4 outside.
        """
        half = self.run.blocks.half[self.blocks]
        room = self.column.to(half.dtype) - self.run.blocks.middle[self.blocks]
        torch.sub(half, room.abs_(), out=room)
        limits = self.run.earlier[: self.round]
        for limit in limits if self.run.near is None else [*limits, self.run.near]:
            inside = limit.keys[self.key_slots].unsqueeze(1) - limit.queries[self.blocks]
            torch.minimum(room, inside.abs_().sub_(limit.margin[self.blocks]), out=room)
        return room.clamp_(max=0).mul_(HIDDEN).unsqueeze(1)


def _sort(buckets: Buckets) -> _Order:
    queries = buckets.queries.flatten(1, 2)  # (rounds, sequences, T)
    keys = queries if buckets.keys is None else buckets.keys.flatten(1, 2)
    rounds, sequences, T = keys.shape
    each = buckets.count + 1
    lists = torch.arange(rounds * sequences, device=keys.device).view(rounds, sequences, 1) * each
    codes = (keys + lists).flatten()  # one number for each round, sequence and bucket
    in_order, items = _stable_sort(codes, rounds * sequences * each)
    ends = torch.bincount(codes, minlength=rounds * sequences * each).cumsum(0)
    slots = torch.arange(len(codes), device=keys.device)
    slot = torch.empty_like(slots).scatter_(0, items, slots)
    own: Tensor | int = 1
    looked, place, query_order = codes, slot, items
    if buckets.keys is not None or buckets.beyond is not None:
        position = slots % T
        code_and_position = in_order.long() * T + position[items]
    if buckets.keys is not None:
        looked = (queries + lists).flatten()
        place = torch.searchsorted(code_and_position, looked * T + position)
        own = (looked == codes).long()
        query_order = _stable_sort(looked, rounds * sequences * each)[1]
    begins = torch.where(looked > 0, ends[looked - 1], 0)
    lower = torch.maximum(begins, place - buckets.back)
    if buckets.ahead:
        upper = torch.minimum(ends[looked], place + own + buckets.ahead) - 1
    elif buckets.beyond is not None:  # keys stand in the order of their positions, so the near ones come last
        far = position - buckets.beyond.expand(buckets.queries.shape).flatten().long()
        upper = torch.searchsorted(code_and_position, looked * T + far, right=True) - 1
    else:
        upper = place - 1
    if buckets.keys is None:  # padded queries would see each other
        upper = torch.where(queries.flatten() == buckets.count, lower - 1, upper)
    return _Order(keys=items, queries=query_order, slot=slot, begins=begins, lower=lower, upper=upper)


def _stable_sort(numbers: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    return (numbers.int() if limit < 2**31 else numbers).sort(stable=True)  # 32 bits sort faster


def _block(order: _Order, rounds: int, reach: int, dtype: torch.dtype) -> _Blocks:
    """Cut the queries of each bucket into blocks, such that a stretch is at most twice as long as an interval may be.

    Args:
        reach: the longest that an interval may be.
    """
    M, device = len(order.queries), order.queries.device
    position = torch.arange(M, device=device)
    lower, upper = order.lower[order.queries], order.upper[order.queries]
    begins = order.begins[order.queries]
    # Queries of one bucket whose intervals begin within `reach` of each other, and of one round, form a group.
    group = begins + torch.div(lower - begins, reach, rounding_mode="floor") * reach
    starts_group = (group.diff(prepend=group[:1] - 1) != 0) | (position % (M // rounds) == 0)
    first_of_group = starts_group.nonzero().squeeze(1)
    number = starts_group.cumsum(0) - 1
    blocks_of_group = -(-first_of_group.diff(append=first_of_group.new_tensor([M])) // BLOCK)
    first_block = blocks_of_group.cumsum(0) - blocks_of_group
    place = first_block[number] * BLOCK + position - first_of_group[number]  # of each query, in order
    blocks = int(blocks_of_group.sum())

    def spread(values: Tensor, unused: int) -> Tensor:  # (M,) in order -> (blocks, BLOCK)
        return values.new_full((blocks * BLOCK,), unused).scatter_(0, place, values).view(blocks, BLOCK)

    queries, lower, upper = spread(order.queries, 0), spread(lower, M), spread(upper, -1)
    empty = lower > upper
    lower, upper = lower.masked_fill_(empty, M), upper.masked_fill_(empty, -1)
    first = lower.amin(1, keepdim=True)
    steps = (upper.amax(1, keepdim=True) - first + STEP).div(STEP, rounding_mode="floor").clamp_(min=1).squeeze(1)
    block_round = first_of_group.repeat_interleave(blocks_of_group) // (M // rounds)
    kind = block_round * (steps.max() + 1) + steps
    kind, by_kind = kind.sort(stable=True)
    where = torch.empty_like(by_kind).scatter_(0, by_kind, torch.arange(blocks, device=device))  # of each block
    place = where[place // BLOCK] * BLOCK + place % BLOCK
    lower, upper, first = lower[by_kind], upper[by_kind], first[by_kind]
    half = torch.where(empty[by_kind], -0.5, (upper - lower) / 2)
    lengths = kind.unique_consecutive(return_counts=True)[1].tolist()
    ends = torch.tensor(lengths, device=device).cumsum(0) - 1
    rounds_and_steps = torch.stack([block_round[by_kind][ends], steps[by_kind][ends]]).tolist()
    runs, start = [], 0
    for round_, step, length in zip(*rounds_and_steps, lengths, strict=True):
        runs.append((round_, step * STEP, start, start + length))
        start += length
    return _Blocks(
        queries=queries[by_kind],
        first=first,
        middle=((lower + upper) / 2 - first).to(dtype).unsqueeze(-1),
        half=half.to(dtype).unsqueeze(-1),
        place=torch.empty_like(place).scatter_(0, order.queries, place),
        runs=runs,
    )


def seen_in_buckets(buckets: Buckets, positions: Tensor) -> Tensor:
    """Which keys the S queries at `positions` see: (B, H, S, T), bool. For measurements: dense."""
    order = _sort(buckets)
    rounds, B, H, T = buckets.queries.shape
    lower, upper = (x.view(rounds, B, H, T)[..., positions, None] for x in (order.lower, order.upper))
    slot = order.slot.view(rounds, B, H, 1, T)
    seen = ((slot >= lower) & (slot <= upper)).any(0)
    distance = (positions[:, None] - torch.arange(T, device=positions.device)).abs()
    least = 1 if buckets.beyond is None else buckets.beyond.expand(B, H, T)[..., positions, None]
    return seen & (distance >= least)
