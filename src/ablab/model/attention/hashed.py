"""Attention among items of one bucket, in time that grows as length times bucket size (after sorting).

The sorted keys of a round are cut into stretches that begin STEP keys apart and overlap as far as a query looks. Each
query is seated in a block beside the one stretch that holds its interval. So all blocks and all stretches are of one
size, gathered once and viewed as they overlap, and one call of the kernel attends many of them.

Where queries and keys share their buckets, they stand in one order and a block is STEP queries. Where they do not, more
queries than that may look at a stretch: blocks then have a few seats more, and whoever finds none gets a block beside
another copy of the stretch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag, pad

from ablab.model.attention.buckets import Buckets, sort
from ablab.model.attention.dense import at_once
from ablab.model.attention.kernel import Scale, attend, attend_backward
from ablab.model.attention.limits import HIDDEN, Limit, by_item, earlier, near, tilt

STEP = 32  # keys from one stretch to the next
SEATS = 48  # queries of a block, where queries and keys have buckets of their own
SLICE = 2**19  # scores computed by one call, so that all it needs stays in the cache


def hashed_forward(
    q: Tensor, k: Tensor, v: Tensor, buckets: Buckets, scale: Scale, slopes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention over the union of what the rounds bring.

    Args:
        q: (B, T, H, D), contiguous, as k and v (B, T, H, Dv).
        slopes: (H,), by which scores fall per token of distance.

    Returns:
        (B, T, H, Dv) and the log-sum-exp (B, T, H).
    """
    run = _Run(q, buckets, slopes)
    queries, keys, values = q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)
    outs, sums = values.new_empty(run.seats, v.shape[-1]), queries.new_empty(run.seats)
    for part in run.parts():
        taken = part.take_queries(queries), part.take_keys(keys), part.take_keys(values)
        mixed, lse = attend(*taken, part.bias(), scale)
        outs[part.seats], sums[part.seats] = mixed.flatten(0, 2), lse.flatten()
    each = sums[run.seat.t()]
    total = each.logsumexp(0)
    weights = (each - total).exp_().t().contiguous()
    merged = embedding_bag(run.seat, outs, mode="sum", per_sample_weights=weights)
    return merged.view(v.shape), total.view(q.shape[:3])


def hashed_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    buckets: Buckets,
    scale: Scale,
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; `out` and `lse` may be those of more keys than these."""
    run = _Run(q, buckets, slopes)
    queries, keys, values = q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)
    grads, outs, sums = grad.flatten(0, 2), out.flatten(0, 2), lse.flatten()
    grad_q = queries.new_empty(run.seats, q.shape[-1])
    grad_k, grad_v = keys.new_zeros(run.keys.numel(), k.shape[-1]), values.new_zeros(run.keys.numel(), v.shape[-1])
    for part in run.parts():
        dq, dk, dv = attend_backward(
            part.take_queries(grads),
            part.take_queries(queries),
            part.take_keys(keys),
            part.take_keys(values),
            part.take_queries(outs),
            part.take_queries(sums.unsqueeze(1)).squeeze(-1),
            part.bias(),
            scale,
        )
        grad_q[part.seats] = dq.flatten(0, 2)
        part.add_to_keys(grad_k, dk)
        part.add_to_keys(grad_v, dv)
    found = [embedding_bag(i, x, mode="sum") for i, x in ((run.seat, grad_q), (run.slot, grad_k), (run.slot, grad_v))]
    return found[0].view(q.shape), found[1].view(k.shape), found[2].view(v.shape)


def hashed_scores(length: int, back: int, ahead: int, *, together: bool) -> int:
    """Count the scores that one round computes for `length` tokens, hidden ones included, without further blocks.

    Args:
        together: queries have the buckets of their keys.
    """
    return length * _columns(back, ahead) * (STEP if together else SEATS) // STEP


def _columns(back: int, ahead: int) -> int:
    """The keys of a stretch: all that queries placed before one of its STEP keys may see, and a multiple of STEP."""
    return (-(-(back + ahead) // STEP) + 1) * STEP


class _Run:
    """One pass over all rounds.

    Blocks and stretches are numbered through all rounds. Block i stands beside stretch i, and behind these stand the
    further blocks of each round.
    """

    def __init__(self, q: Tensor, buckets: Buckets, slopes: Tensor | None) -> None:
        order = sort(buckets)
        self.rounds, N = order.keys.shape
        together = buckets.keys is None
        self.columns = _columns(buckets.back, buckets.ahead)
        before = self.columns - STEP - buckets.ahead
        self.column = torch.arange(self.columns, device=q.device, dtype=q.dtype)
        self.stretches = -(-N // STEP) if together else N // STEP + 1  # of a round
        length = before + self.stretches * STEP + buckets.ahead
        self.keys = pad(order.keys, (before, length - before - N))  # (rounds, length), items
        slots = torch.arange(self.keys.numel(), device=q.device).view(self.keys.shape)[:, before : before + N]
        self.slot = by_item(order.keys, slots).t().contiguous()  # (N, rounds), counted through all rounds

        self.rows = STEP if together else SEATS
        if together:
            first = torch.arange(self.rounds, device=q.device).unsqueeze(1) * self.stretches * STEP
            seat, self.further = order.place + first, [order.place.new_empty(0)] * self.rounds
        else:
            seat, self.further = _seat(order.place, self.stretches)
        self.seats = (self.rounds * self.stretches + sum(len(each) for each in self.further)) * self.rows
        self.seat = by_item(order.queries, seat).t().contiguous()  # (N, rounds)

        # Slots are counted from the stretch's or the sequence's first, so that single precision holds them.
        first = order.place // STEP * STEP - before
        middle = (order.lower + order.upper - 2 * first).to(q.dtype) / 2
        half = (order.upper - order.lower + 1).to(q.dtype) / 2  # which ends between the last key inside and the next
        reach = torch.where(half > 0, half.square(), -1).mul_(HIDDEN)
        self.items = self._seated(order.queries, seat, 0)
        self.middle = self._seated(middle, seat, 0)
        self.reach = self._seated(reach, seat, -HIDDEN)
        self.earlier = earlier(order, reach, q.shape[1])
        self.near = near(buckets, q)
        self.tilt: Limit | None = None if slopes is None else tilt(q, slopes)

    def _seated(self, values: Tensor, seat: Tensor, unused: float) -> Tensor:
        """(rounds, N) in order -> (seats,)."""
        return values.new_full((self.seats,), unused).scatter_(0, seat.flatten(), values.flatten())

    def parts(self) -> Iterator[_Part]:
        size = max(1, at_once(SLICE, self.keys.device) // (self.rows * self.columns))
        block = self.rounds * self.stretches
        for round_ in range(self.rounds):
            for start in range(0, self.stretches, size):
                stretches = slice(start, min(start + size, self.stretches))
                yield _Part(self, round_, stretches, round_ * self.stretches + start)
            further = self.further[round_]
            for start in range(0, len(further), size):
                yield _Part(self, round_, further[start : start + size], block + start)
            block += len(further)


class _Part:
    """A few blocks of one round.

    Args:
        stretches: their numbers within the round; a slice where they overlap as they come.
        block: the number of the first block.
    """

    def __init__(self, run: _Run, round_: int, stretches: slice | Tensor, block: int) -> None:
        self.run, self.round, self.stretches = run, round_, stretches
        keys = run.keys[round_]
        if isinstance(stretches, slice):
            self.blocks = stretches.stop - stretches.start
            self.keys = keys[stretches.start * STEP : (stretches.stop - 1) * STEP + run.columns]
        else:
            self.blocks = len(stretches)
            self.keys = keys.unfold(0, run.columns, STEP)[stretches]
        self.seats = slice(block * run.rows, (block + self.blocks) * run.rows)
        self.items = run.items[self.seats]

    def take_queries(self, x: Tensor) -> Tensor:
        """(N, D) -> (blocks, 1, rows, D)."""
        return embedding(self.items, x).view(self.blocks, 1, self.run.rows, -1)

    def take_keys(self, x: Tensor) -> Tensor:
        """(N, D) -> (blocks, 1, columns, D)."""
        return self._beside_blocks(embedding(self.keys, x))

    def _beside_blocks(self, x: Tensor) -> Tensor:
        """Rows that belong to `keys`, (..., D) -> (blocks, 1, columns, D)."""
        D = x.shape[-1]
        shape = self.blocks, 1, self.run.columns, D
        return x.view(shape) if self.keys.dim() == 2 else x.as_strided(shape, (STEP * D, D, D, 1))

    def add_to_keys(self, total: Tensor, x: Tensor) -> None:
        """Add x (blocks, 1, columns, D) to `total` (rounds * slots, D)."""
        steps = total.view(self.run.rounds, -1, STEP, total.shape[1])[self.round]
        for i, piece in enumerate(x.squeeze(1).split(STEP, 1)):
            if isinstance(self.stretches, slice):
                steps[self.stretches.start + i : self.stretches.stop + i] += piece
            else:
                steps.index_add_(0, self.stretches + i, piece)

    def bias(self) -> Tensor:
        """(blocks, 1, rows, columns): 0 where the query sees the key, here first of all rounds, else a floor."""
        run = self.run
        middle, reach = (x[self.seats].view(self.blocks, 1, -1, 1) for x in (run.middle, run.reach))
        room = run.column - middle
        apart = torch.empty_like(room)
        torch.addcmul(reach, room, room, value=-HIDDEN, out=room)
        for limit in [*run.earlier[: self.round], *run.near]:
            value, margin = self.take_queries(limit.queries).split(1, -1)
            torch.sub(self._beside_blocks(limit.keys[self.keys].unsqueeze(-1)).transpose(2, 3), value, out=apart)
            torch.addcmul(margin, apart, apart, value=HIDDEN, out=apart)
            torch.minimum(room, apart, out=room)
        room.clamp_(max=0)
        if run.tilt is not None:
            value, slope = self.take_queries(run.tilt.queries).split(1, -1)
            torch.sub(self._beside_blocks(run.tilt.keys[self.keys].unsqueeze(-1)).transpose(2, 3), value, out=apart)
            room.addcmul_(apart.abs_(), slope, value=-1)
        return room


def _seat(place: Tensor, stretches: int) -> tuple[Tensor, list[Tensor]]:
    """A seat for each query, in blocks of SEATS.

    Args:
        place: (rounds, N), in ascending order.
        stretches: of a round.

    Returns:
        The seats (rounds, N), and for each round the stretches of its further blocks.
    """
    rounds, device = len(place), place.device
    numbers = torch.arange(rounds * stretches, device=device)
    stretch = (place // STEP + numbers[::stretches].unsqueeze(1)).flatten()
    guests = torch.bincount(stretch, minlength=len(numbers))
    among = torch.arange(len(stretch), device=device) - (guests.cumsum(0) - guests)[stretch]
    further = (guests - 1).div(SEATS, rounding_mode="floor").clamp(min=0)
    first = further.cumsum(0) - further + len(numbers)
    number = among // SEATS
    block = torch.where(number == 0, stretch, first[stretch] + number - 1)
    of_rounds = further.view(rounds, -1).sum(1).tolist()
    beside = (numbers % stretches).repeat_interleave(further).split(of_rounds)
    return (block * SEATS + among % SEATS).view(rounds, -1), list(beside)
