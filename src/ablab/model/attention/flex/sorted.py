"""Hashed attention by FlexAttention: in sorted order it is a band, and all rounds are one call.

Each round sorts the queries and keys of a sequence by bucket and position. What a query sees of the keys is then an
interval of slots, and what a block of queries sees lies in few blocks of keys:

* Where queries have the buckets of their keys (`share_qk`) they stand side by side. The blocks are a band around the
  diagonal that depends on lengths alone, made once and the same in every step.
* Queries that have buckets of their own stand in an order of their own. But from one query to the next their intervals
  only ever move on, so that a block of queries needs no more than the blocks from its first query's first slot to its
  last query's last one: never too few, and in all at most as many as a band has and one for each block of keys. They
  depend on the data, and are found on the device from two numbers for each block of queries, as lists of (T / 128)^2
  small numbers.

Within the blocks a rule looks at each pair. It reads tensors: the interval of the query, for each earlier round the
interval that it had there and the slot that the key had (what was met counts once), and the positions of both where
nearness or distance matters.

What is around the call is a fixed number of operations on whole tensors, however many rounds, heads and tokens there
are, compiled on CUDA; nothing waits for the device.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from ablab.model.attention.base import bounded
from ablab.model.attention.buckets import Buckets
from ablab.model.attention.flex.call import MaskMod, ScoreMod, attend, fused
from ablab.model.attention.flex.masks import BLOCK, kept
from ablab.model.attention.flex.ordering import InOrder, in_order, met_before
from ablab.model.attention.kernel import working_dtype


def hashed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    buckets: Buckets,
    *,
    slopes: Tensor | None = None,
    softcap: float | None = None,
    beside: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over the union of what the rounds bring.

    Args:
        q: (B, H, T, D); k (B, K, T, D) and v (B, K, T, Dv) with K dividing H.
        buckets: those of keys, where they have their own, (rounds, B, K, T).
        slopes: (H,); a score falls by so much per token of distance. Not differentiated.
        softcap: bounds the scores before slopes are taken from them.
        beside: output and log-sum-exp of other keys, which share the softmax.

    Returns:
        (B, H, T, Dv), zero where a query sees nothing, and the log-sum-exp (B, H, T), minus infinity there.
    """
    together = buckets.keys is None
    sorted_ = _sorted(
        q, k, v, buckets.queries, buckets.keys, buckets.beyond, buckets.count, buckets.back, buckets.ahead
    )
    if together:
        blocks = band(q.shape[2], buckets.back, buckets.ahead, q.device)
    else:
        blocks = _block_mask(sorted_.blocks, q.shape[2])
    out, lse = attend(
        sorted_.q.flatten(0, 1),
        sorted_.k.flatten(0, 1),
        sorted_.v.flatten(0, 1),
        _rule(sorted_),
        block_mask=blocks,
        score_mod=_scores(sorted_, None if slopes is None else slopes.to(working_dtype(q)), softcap),
    )
    others = () if beside is None else beside
    return _merged(out, lse, sorted_.order.queries, sorted_.order.places, *others)


class Sorted(NamedTuple):
    """What a call is given; (rounds * B, ...), rounds being part of the batch, unless it says otherwise."""

    q: Tensor  # (rounds, B, H, T, D), as k and v, of their heads
    k: Tensor
    v: Tensor
    order: InOrder
    met: tuple[tuple[Tensor, ...], ...]  # for each round but the last: slots, first and last ones, (rounds * B, ., T)
    positions: tuple[Tensor, Tensor]  # of queries and keys, int32
    least: Tensor | None  # (rounds * B, H, T), int32: how far a key must be away; None: where not causal, anything
    blocks: tuple[Tensor, ...]  # of the two lists of a block mask, for queries and for keys
    own: bool  # intervals hold the query's own key, which it does not see


@fused
def _sorted(
    q: Tensor, k: Tensor, v: Tensor, queries: Tensor, keys: Tensor | None, beyond: Tensor | None, count: int, back: int,
    ahead: int,
) -> Sorted:  # fmt: skip
    order = in_order(queries, keys, count, back, ahead)
    met = met_before(order)
    least = None
    if beyond is not None:
        least = beyond.int().expand(queries.shape).gather(-1, order.queries).flatten(0, 1)
    return Sorted(
        q=_taken(q, order.queries, order.places),
        k=_taken(k, order.keys, order.slots),
        v=_taken(v, order.keys, order.slots),
        order=order,
        met=() if met is None else tuple(zip(*(x.flatten(1, 2).unbind(0) for x in met), strict=True)),
        positions=(order.queries.flatten(0, 1).int(), order.keys.flatten(0, 1).int()),
        least=least,
        blocks=() if keys is None else _moving(order),
        own=ahead > 0,
    )


@fused
def _merged(
    out: Tensor,
    lse: Tensor,
    queries: Tensor,
    places: Tensor,
    beside: Tensor | None = None,
    its_lse: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One softmax over what all rounds and what is `beside` them have, out of the orders of the rounds."""
    shape, dtype = queries.shape, out.dtype
    mixed = _reordered(out.view(*shape, -1), places, queries)
    sums = _reordered(lse.view(*shape, 1), places, queries).squeeze(-1)
    if beside is not None and its_lse is not None:
        mixed, sums = torch.cat([mixed, beside.to(dtype)[None]]), torch.cat([sums, its_lse[None]])
    nobody = sums.detach().amax(0) == -math.inf
    sums = sums.masked_fill(nobody, 0)  # of nothing but minus infinity there is no softmax, and no gradient
    whole = (sums.softmax(0).unsqueeze(-1) * mixed).sum(0)
    return whole.to(dtype), sums.logsumexp(0).masked_fill(nobody, -math.inf)


class _Taken(torch.autograd.Function):
    """Rows in another order, whose gradient is put in order too: as PyTorch differentiates it, it would be added up."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, rows: Tensor, back: Tensor) -> Tensor:
        return x.gather(-2, rows.unsqueeze(-1).expand(*rows.shape, x.shape[-1]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, back = ctx.saved_tensors
        return _reordered(grad, back, rows), None, None


def _reordered(x: Tensor, rows: Tensor, back: Tensor) -> Tensor:
    """x (..., T, D) with the row `rows` (..., T) at each place; `back` is the inverse of that order."""
    found: Tensor = _Taken.apply(x, rows, back)  # type: ignore[no-untyped-call]
    return found


def _taken(x: Tensor, rows: Tensor, back: Tensor) -> Tensor:
    """(B, H, T, D) -> (rounds, B, H, T, D), in the order of each round."""
    return _reordered(x.expand(len(rows), *x.shape), rows, back)


def _rule(sorted_: Sorted) -> MaskMod:
    lower, upper = (x.flatten(0, 1) for x in (sorted_.order.lower, sorted_.order.upper))
    met, least, own, (asking, offered) = sorted_.met, sorted_.least, sorted_.own, sorted_.positions
    group = asking.shape[1] // offered.shape[1]

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        of_keys = head // group
        found = (key >= lower[batch, head, query]) & (key <= upper[batch, head, query])
        for slots, first, last in met:
            slot = slots[batch, of_keys, key]
            found = found & ((slot < first[batch, head, query]) | (slot > last[batch, head, query]))
        if least is not None:
            away = (asking[batch, head, query] - offered[batch, of_keys, key]).abs()
            return found & (away >= least[batch, head, query])
        if own:
            return found & (asking[batch, head, query] != offered[batch, of_keys, key])
        return found

    return seen


def _scores(sorted_: Sorted, slopes: Tensor | None, softcap: float | None) -> ScoreMod | None:
    if slopes is None and softcap is None:
        return None
    asking, offered = sorted_.positions
    group = asking.shape[1] // offered.shape[1]

    def changed(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        score = bounded(score, softcap)
        if slopes is None:
            return score
        return score - slopes[head] * (asking[batch, head, query] - offered[batch, head // group, key]).abs()

    return changed


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def band(length: int, back: int, ahead: int, device: torch.device) -> BlockMask:
    """The blocks that hold, for each query, the keys from `back` before it to `ahead` after it; made once."""
    return _band(length, back, ahead, device)


@lru_cache(maxsize=64)
def _band(length: int, back: int, ahead: int, device: torch.device) -> BlockMask:
    with kept():
        begin = torch.arange(0, length, BLOCK, device=device)
        first, last = (begin - back).clamp(min=0), (begin + BLOCK - 1 + ahead).clamp(max=length - 1)
        return _block_mask(_lists((first // BLOCK)[None, None], (last // BLOCK)[None, None]), length)


def _moving(order: InOrder) -> tuple[Tensor, ...]:
    """The blocks that hold the intervals of all queries, which begin and end in the order of the queries."""
    T = order.lower.shape[-1]
    ends = torch.arange(BLOCK - 1, T + BLOCK - 1, BLOCK, device=order.lower.device).clamp(max=T - 1)
    first, last = order.lower[..., ::BLOCK].flatten(0, 1), order.upper.flatten(0, 1).index_select(-1, ends)
    return _lists(first.div(BLOCK, rounding_mode="floor"), last.div(BLOCK, rounding_mode="floor"))


def _lists(first: Tensor, last: Tensor) -> tuple[Tensor, ...]:
    """Block i of queries sees the blocks of keys from first[..., i] to last[..., i]; neither ever falls.

    Returns:
        How many blocks of keys each of queries sees (..., n), and which (..., n, n), and the same the other way round.
    """
    n = first.shape[-1]
    column = torch.arange(n, device=first.device)
    begin = (last.unsqueeze(-2) < column[:, None]).sum(-1)
    end = (first.unsqueeze(-2) <= column[:, None]).sum(-1) - 1
    found = []
    for a, b in ((first, last), (begin, end)):
        found += [(b - a + 1).clamp(min=0).int(), (a.unsqueeze(-1) + column).clamp(max=n - 1).int()]
    return tuple(found)


def _block_mask(lists: tuple[Tensor, ...], length: int) -> BlockMask:
    kv_num_blocks, kv_indices, q_num_blocks, q_indices = lists
    return BlockMask(
        seq_lengths=(length, length),
        kv_num_blocks=kv_num_blocks, kv_indices=kv_indices, full_kv_num_blocks=None, full_kv_indices=None,
        q_num_blocks=q_num_blocks, q_indices=q_indices, full_q_num_blocks=None, full_q_indices=None,
        BLOCK_SIZE=(BLOCK, BLOCK),
    )  # fmt: skip
