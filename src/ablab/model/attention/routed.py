"""Attention of queries to the few blocks of keys that each has chosen, without touching the others.

The choices of all queries are sorted by their blocks, and those of one block are attended side by side, as in mixture
of block attention (Lu et al. 2025, arXiv 2502.13189, algorithm 1): a block is brought once for many queries and not
once for each. What a query finds in its blocks is one softmax by the log-sum-exp of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import embedding, pad

from ablab.model.attention.base import bounded
from ablab.model.attention.dense import recomputed
from ablab.model.attention.kernel import FLOOR, working_dtype

Near = Callable[[Tensor], Tensor]


class Routes(NamedTuple):
    """Choices side by side with others of the same block, for R heads of keys of all sequences.

    `size` places beside each other hold choices of one block, as many of them as there are, and then nobody.
    """

    queries: Tensor  # (R, M, size), whose choice it is, T for nobody
    blocks: Tensor  # (R, M)
    places: Tensor  # (R, T, m), where each choice stands, M * size for one that is none


def routes(chosen: Tensor, found: Tensor, count: int, size: int) -> Routes:
    """Sort choices of blocks.

    Args:
        chosen: (R, T, m), of `count` blocks.
        found: bool (R, T, m), false for a choice that is none.
    """
    (R, T, m), device = chosen.shape, chosen.device
    ids = chosen.masked_fill(~found, count).flatten(1)
    by_block, order = ids.sort(stable=True)
    held = ids.new_zeros(R, count + 1).scatter_add(1, ids, torch.ones_like(ids))
    chunks = (held[:, :count] + size - 1) // size
    ends, first = chunks.cumsum(1), held.cumsum(1) - held
    rank = torch.arange(T * m, device=device) - first.gather(1, by_block)
    M = T * m // size + min(count, T * m)
    nowhere = M * size
    place = (pad(ends - chunks, (0, 1)).gather(1, by_block) * size + rank).masked_fill(by_block == count, nowhere)
    queries = ids.new_full((R, nowhere + 1), T).scatter(1, place, order // m)[:, :nowhere]
    blocks = torch.searchsorted(ends, torch.arange(M, device=device).expand(R, -1).contiguous(), right=True)
    places = torch.empty_like(place).scatter(1, order, place)
    return Routes(queries.unflatten(1, (M, size)), blocks.clamp(max=count - 1), places.view(R, T, m))


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, there: Tensor, way: Routes, *, block: int, window: int, near: Near, causal: bool,
    softcap: float | None, sinks: Tensor | None, dropout: float, at_once: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The attention of q (B, H, T, D) to chosen blocks of `block` keys and to a window, if any.

    A few heads at a time, and again in the backward pass.

    Args:
        k: (B, K, T, D), as v.
        there: bool (B, T).
        way: of B * K heads of keys.
        near: the distances that are in the window.
        sinks: (H,).
        at_once: scores that are there at one time.

    Returns:
        (B, H, T, Dv), and what each choice has of the weights, without what is in the window, (B, H, T, m).
    """
    (B, H, T, _), K, m = q.shape, k.shape[1], way.places.shape[-1]
    count = max(1, at_once // (T * m * block * H // K))
    apart = q.unflatten(1, (K, -1)).flatten(0, 1).transpose(1, 2), k.flatten(0, 1), v.flatten(0, 1)
    parts = [x.split(count) for x in (*apart, there.repeat_interleave(K, 0), *way)]
    logits = [None] * len(parts[0]) if sinks is None else sinks.view(K, -1).repeat(B, 1).split(count)

    def attend(
        q: Tensor, k: Tensor, v: Tensor, there: Tensor, queries: Tensor, blocks: Tensor, places: Tensor,
        sinks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        keys, values = (pad(x, (0, 0, 0, -T % block)).unflatten(1, (-1, block)) for x in (k, v))
        present = pad(there, (0, -T % block)).unflatten(1, (-1, block))
        chosen = Routes(queries, blocks, places)
        branches = [
            attend_blocks(q, keys, values, present, chosen, causal=causal, near=near, softcap=softcap, dropout=dropout)
        ]
        if window:
            branches.append(
                attend_near(q, k, v, there, window=window, causal=causal, near=near, softcap=softcap, dropout=dropout)
            )
        found, lse = (torch.cat(each, 2) for each in zip(*branches, strict=True))
        out, weights = merged(found, lse, sinks)
        return out, weights[:, :, :m]

    done = [recomputed(attend, *part, random=dropout > 0) for part in zip(*parts, logits, strict=True)]
    out, shares = (torch.cat(each).unflatten(0, (B, K)) for each in zip(*done, strict=True))
    return out.transpose(2, 3).flatten(1, 2), shares.permute(0, 1, 4, 2, 3).flatten(1, 2)


def attend_blocks(
    q: Tensor, k: Tensor, v: Tensor, there: Tensor, way: Routes, *, causal: bool, near: Near, softcap: float | None,
    dropout: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What each choice brings: the output (R, T, m, g, Dv) and the log-sum-exp (R, T, m, g), `FLOOR` of nothing.

    Args:
        q: (R, T, g, D), g heads to one of keys.
        k: (R, J, block, D), as v.
        there: bool (R, J, block).
        near: distance -> what is not seen here, but elsewhere.
    """
    (R, T, g, _), (J, block), (M, size) = q.shape, k.shape[1:3], way.queries.shape[1:]
    row = torch.arange(R, device=q.device)[:, None]
    asking = (row[..., None] * T + way.queries.clamp(max=T - 1)).flatten(1)
    queries = embedding(asking, q.reshape(R * T, -1)).view(R * M, size * g, -1)
    keys, values = (embedding(row * J + way.blocks, x.reshape(R * J, -1)).view(R * M, block, -1) for x in (k, v))
    scores = bounded((queries @ keys.transpose(-1, -2)).to(working_dtype(q)) / math.sqrt(q.shape[-1]), softcap)
    distance = (
        way.queries[..., None] - (way.blocks[..., None] * block + torch.arange(block, device=q.device))[:, :, None]
    )
    hidden = near(distance) | ~there[row, way.blocks][:, :, None] | (way.queries == T)[..., None]
    if causal:
        hidden = hidden | (distance < 0)
    scores = scores.view(R, M, size, g, block).masked_fill(hidden[:, :, :, None], FLOOR)
    lse = scores.logsumexp(-1)
    weights = drop((scores - lse.unsqueeze(-1)).exp(), dropout).to(v.dtype)
    mixed = weights.view(R * M, size * g, block) @ values
    there_is = way.places < M * size
    back = row[..., None] * (M * size) + way.places.clamp(max=M * size - 1)
    out = embedding(back, mixed.view(R * M * size, -1)).unflatten(-1, (g, -1))
    return out, embedding(back, lse.view(-1, g)).masked_fill(~there_is.unsqueeze(-1), FLOOR)


def attend_near(
    q: Tensor, k: Tensor, v: Tensor, there: Tensor, *, window: int, causal: bool, near: Near, softcap: float | None,
    dropout: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the window brings: the output (R, T, 1, g, Dv) and the log-sum-exp (R, T, 1, g).

    Args:
        q: (R, T, g, D).
        k: (R, T, D), as v.
        there: bool (R, T).
    """
    (R, T, g, _), c = q.shape, max(window, 16)
    n, missing = -(-T // c), -T % c
    after = 0 if causal else c
    queries = pad(q, (0, 0, 0, 0, 0, missing)).reshape(R, n, c * g, -1)

    def around(x: Tensor) -> Tensor:  # (R, T, D) -> (R, n, c before, own and after, D)
        return pad(x, (0, 0, c, missing + after)).unfold(1, 2 * c + after, c).transpose(-1, -2)

    keys, values = around(k), around(v)
    present = around(there.unsqueeze(-1)).squeeze(-1)
    scores = bounded((queries @ keys.transpose(-1, -2)).to(working_dtype(q)) / math.sqrt(q.shape[-1]), softcap)
    distance = torch.arange(c, 2 * c, device=q.device)[:, None] - torch.arange(2 * c + after, device=q.device)
    seen = near(distance) & present[:, :, None]
    scores = scores.view(R, n, c, g, -1).masked_fill(~seen[:, :, :, None], FLOOR)
    lse = scores.logsumexp(-1)
    weights = drop((scores - lse.unsqueeze(-1)).exp(), dropout).to(v.dtype)
    out = (weights.flatten(2, 3) @ values).view(R, n * c, 1, g, -1)
    return out[:, :T], lse.view(R, n * c, 1, g)[:, :T]


def merged(out: Tensor, lse: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """One softmax over what several branches bring.

    Args:
        out: (R, T, m, g, Dv).
        lse: (R, T, m, g).
        sinks: (R, g), a logit for each head.

    Returns:
        The output (R, T, g, Dv), zero where there is nothing, and the weight that each branch has (R, T, m, g).
    """
    total = lse.logsumexp(2, keepdim=True)
    if sinks is not None:
        total = torch.logaddexp(total, sinks.to(lse.dtype)[:, None, None])
    weights = (lse - total).exp().masked_fill(lse <= FLOOR / 2, 0)
    return (weights.unsqueeze(-1).to(out.dtype) * out).sum(2), weights
