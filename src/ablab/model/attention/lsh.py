"""Attention among keys that hash like the query (Reformer: Kitaev, Kaiser and Levskaya 2020, section 2).

Hashing, rounds and their merger follow the paper. The rule by which a query finds its keys, in each round:

1. Queries and keys fall into buckets by argmax([xR; -xR]) for a random rotation R, one per head and round (section 2,
   "LSH attention"; the paper's normalisation of x does not change the argmax and is left out).
2. The keys of each bucket, in the order of their positions, are cut into chunks of `bucket_size`.
3. A query sees, of its own bucket only, the chunk that holds the bucket's last key at or before the query's position
   (the first chunk, if there is none), and the chunk before that. Where causal, keys after the query are masked.
4. A query sees itself only where no round brings it any other key.

Rounds are merged into one softmax over all that they bring (section 2, "Multi-round LSH attention", and appendix A); a
key that several rounds bring counts once.

Deviations. The paper shares queries and keys; here they are projected apart, as for every other core, and hashed by the
same rotation. The paper cuts the sorted sequence as a whole, so that the sizes of other buckets, later positions
included, decide where a chunk ends and thereby which keys an early query sees. Chunks that start with their bucket
close that leak: a causal model's outputs do not depend on later tokens in any way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ablab.model.initialisation import keyed_generator
from ablab.model.spec import LayerSpec, require_at_least

NOWHERE = -3  # a label that is not within one of any other: chunks are labelled from 0


class LSHAttention(nn.Module):
    """Memory grows as rounds * T * bucket_size for the scores, and T * buckets for hashing, which keeps no gradient.

    Rotations are no parameters but a function of the seed, the layer and the training step (`resample`), the same in
    every process; evaluation always uses one fixed rotation. Until `resample` is called, training uses step 0.

    Args:
        rounds: independent hashings, at least 1.
        bucket_size: keys per chunk, at least 1.
        buckets: 1, or an even number; None for about T / bucket_size.
    """

    rotations: Tensor
    evaluation_rotations: Tensor

    def __init__(self, spec: LayerSpec, *, rounds: int, bucket_size: int, buckets: int | None = None) -> None:
        super().__init__()
        require_at_least(1, "rounds", rounds)
        require_at_least(1, "bucket_size", bucket_size)
        if buckets is not None and buckets != 1 and (buckets < 1 or buckets % 2):
            raise ValueError(f"buckets must be 1, an even number or null, got {buckets}")
        self.causal, self.seed, self.layer_index = spec.causal, spec.seed, spec.layer_index
        self.rounds, self.bucket_size, self.buckets = rounds, bucket_size, buckets
        # Drawn for the longest sequence; a shorter one uses the first columns.
        self.shape = (spec.n_heads, rounds, spec.head_size, self._buckets(spec.max_length) // 2)
        device = torch.get_default_device()
        self.register_buffer("rotations", self._draw(0).to(device), persistent=False)
        self.register_buffer("evaluation_rotations", self._draw("evaluation").to(device), persistent=False)

    def _buckets(self, length: int) -> int:
        if self.buckets is not None:
            return self.buckets
        return 1 if length <= self.bucket_size else 2 * max(1, round(length / self.bucket_size / 2))

    def _draw(self, moment: int | str) -> Tensor:
        generator = keyed_generator("lsh", self.seed, self.layer_index, moment)
        return torch.randn(self.shape, generator=generator, device="cpu", dtype=torch.float32)

    def resample(self, step: int) -> None:
        """Use the rotations of training step `step`."""
        self.rotations.copy_(self._draw(step))

    @torch.no_grad()
    def hash(self, x: Tensor) -> Tensor:
        """Queries or keys x (B, H, T, D) -> buckets (B, H, rounds, T), int64."""
        rotations = self.rotations if self.training else self.evaluation_rotations
        half = rotations[..., : self._buckets(x.shape[2]) // 2]
        if half.shape[-1] == 0:  # one bucket
            return torch.zeros(*x.shape[:2], self.rounds, x.shape[2], dtype=torch.int64, device=x.device)
        rotated = x.to(half.dtype).unsqueeze(2) @ half
        return torch.cat([rotated, -rotated], dim=-1).argmax(-1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        layout = self._layout(q, k)
        queries, keys = _take(q / math.sqrt(q.shape[-1]), layout.query), _take(k, layout.key)
        scores = queries @ keys.transpose(-1, -2) + layout.bias
        # Softmax over all that the rounds bring: each row by its own maximum, then rows by the largest of the maxima.
        # A maximum cancels between numerator and denominator, so it needs no gradient.
        maximum = scores.detach().amax(-1, keepdim=True)
        weights = (scores - maximum).exp()
        numerator = _back(weights @ _take(v, layout.key), layout.slot)  # (B, H, rounds, T, D)
        denominator = _back(weights.sum(-1, keepdim=True), layout.slot)  # (B, H, rounds, T, 1)
        maximum = _back(maximum, layout.slot)
        share = (maximum - maximum.amax(2, keepdim=True)).exp()
        merged = (share * numerator).sum(2) / (share * denominator).sum(2)
        return torch.where(layout.company, merged.to(v.dtype), v)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        chunks = _chunks(self.hash(q), self.hash(k), self._buckets(q.shape[2]), self.bucket_size)
        keys = torch.arange(k.shape[2], device=k.device)
        mask = _within_reach(chunks.query_label[..., positions], chunks.key_label).any(2)
        mask = mask & self._allowed(positions, keys)
        return mask | (~mask.any(-1, keepdim=True) & (positions[:, None] == keys))

    def _allowed(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether positions `key` (..., K) are other than positions `query` (..., Q) and, where causal, before them."""
        query, key = query.unsqueeze(-1), key.unsqueeze(-2)
        return key < query if self.causal else key != query

    @torch.no_grad()
    def _layout(self, q: Tensor, k: Tensor) -> _Layout:
        chunks = _chunks(self.hash(q), self.hash(k), self._buckets(q.shape[2]), self.bucket_size)
        rows = chunks.members.shape[-2]
        # Queries of one chunk stand together, so that they share one gathering of keys. Rows of half a chunk balance
        # keys gathered more than once against slots left empty.
        queries = _pack(chunks.query_chunk.clamp(max=rows - 1), rows, -(-self.bucket_size // 2))
        owner = queries.owner.unsqueeze(-1).expand(*queries.owner.shape, self.bucket_size)
        before = pad(chunks.members, (0, 0, 1, 0), value=q.shape[2])  # chunk 0 has an empty one before it
        key = torch.cat([before.gather(-2, owner), chunks.members.gather(-2, owner)], dim=-1)
        # Everything of the size of the scores is kept in few and small integers: it costs more than the arithmetic.
        query_label = pad(chunks.query_label.int(), (0, 1))
        key_label = pad(chunks.key_label.int(), (0, 1), value=NOWHERE)

        def reached(other: int) -> Tensor:  # in the round `other` rounds away, do these queries see these keys?
            query_in_other = query_label.roll(other, 2).gather(-1, queries.members.flatten(-2))
            key_in_other = key_label.roll(other, 2).gather(-1, key.flatten(-2))
            return _within_reach(query_in_other.view_as(queries.members), key_in_other.view_as(key))

        visible = reached(0)
        times = visible.to(torch.int16)
        for other in range(1, self.rounds):
            times += reached(other)
        visible &= self._allowed(queries.members.int(), key.int())
        # A finite floor, not -inf: a row without keys stays finite, forward and backward, until it is replaced.
        floor = torch.finfo(q.dtype).min
        bias = torch.tensor([floor, *(-math.log(n) for n in range(1, self.rounds + 1))], dtype=q.dtype, device=q.device)
        company = _back(visible.any(-1, keepdim=True), queries.slot).any(2)
        return _Layout(
            query=queries.members, key=key, bias=bias[(times * visible).int()], slot=queries.slot, company=company
        )


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Who meets whom, in N rows of R queries and 2C keys per head and round. Position T marks an empty slot."""

    query: Tensor  # (B, H, rounds, N, R) positions
    key: Tensor  # (B, H, rounds, N, 2C) positions
    bias: Tensor  # (B, H, rounds, N, R, 2C) minus the log of how many rounds bring the query this key; a floor if none
    slot: Tensor  # (B, H, rounds, T) where each query stands in `query`, its last two dimensions taken as one
    company: Tensor  # (B, H, T, 1) bool: the query sees a key other than its own


@dataclass(frozen=True, kw_only=True)
class _Chunks:
    """Keys in chunks by bucket, and the chunk where each query looks.

    A label is a chunk's number plus its bucket's. Labels of neighbours in one bucket differ by one, labels across
    buckets by two or more, so the labels alone say whether a query sees a key.
    """

    members: Tensor  # (B, H, rounds, chunks, bucket_size) positions of keys, T where empty
    key_label: Tensor  # (B, H, rounds, T)
    query_chunk: Tensor  # (B, H, rounds, T); one past the last chunk for a query whose bucket, at the end, is empty
    query_label: Tensor  # (B, H, rounds, T)


def _chunks(q_buckets: Tensor, k_buckets: Tensor, buckets: int, size: int) -> _Chunks:
    T = k_buckets.shape[-1]
    keys = _pack(k_buckets, buckets, size)
    code = q_buckets * T + torch.arange(T, device=q_buckets.device)
    reached = torch.searchsorted(keys.codes, code, right=True) - keys.edges.gather(-1, q_buckets)
    query_chunk = keys.first.gather(-1, q_buckets) + (reached - 1).clamp(min=0) // size
    return _Chunks(
        members=keys.members,
        key_label=keys.slot // size + k_buckets,
        query_chunk=query_chunk,
        query_label=query_chunk + q_buckets,
    )


def _within_reach(query_label: Tensor, key_label: Tensor) -> Tensor:
    """Labels (..., Q) and (..., K) -> (..., Q, K): the key is in the query's chunk or the one before, same bucket."""
    distance = query_label.unsqueeze(-1) - key_label.unsqueeze(-2)
    return (distance & ~1) == 0  # 0 or 1, in one pass


@dataclass(frozen=True, kw_only=True)
class _Packing:
    """T items in rows of fixed size, each group in rows of its own, in the order of positions."""

    members: Tensor  # (..., rows, size) positions, T where empty
    owner: Tensor  # (..., rows) the row's group; 0 for empty rows
    slot: Tensor  # (..., T) where each position stands in `members`, its two dimensions taken as one
    first: Tensor  # (..., groups) the group's first row
    codes: Tensor  # (..., T) group * T + position, sorted
    edges: Tensor  # (..., groups) the group's first place in `codes`


def _pack(groups: Tensor, n_groups: int, size: int) -> _Packing:
    """Pack positions 0..T-1 of `groups` (..., T), ids below `n_groups`. All shapes follow from T alone, so that the
    operations are the same on every device, "meta" included, whatever the data: rows allow for the worst case."""
    lead, T = groups.shape[:-1], groups.shape[-1]
    position = torch.arange(T, device=groups.device)
    codes = (groups * T + position).sort(-1).values
    starts = torch.arange(n_groups + 1, device=groups.device) * T
    edges = torch.searchsorted(codes, starts.expand(*lead, n_groups + 1).contiguous())
    rows_used = (edges.diff(dim=-1) + size - 1) // size
    first = rows_used.cumsum(-1) - rows_used
    group, item = codes // T, codes % T
    slot = first.gather(-1, group) * size + position - edges.gather(-1, group)
    rows = (T + min(n_groups, T) * (size - 1)) // size
    members = groups.new_full((*lead, rows * size), T).scatter(-1, slot, item)
    return _Packing(
        members=members.unflatten(-1, (rows, size)),
        owner=groups.new_zeros(*lead, rows).scatter(-1, slot // size, group),
        slot=torch.empty_like(groups).scatter(-1, item, slot),
        first=first,
        codes=codes,
        edges=edges[..., :-1],
    )


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x (B, H, T, D) at positions `index` (B, H, ...) -> (B, H, ..., D); any row for an empty slot."""
    flat = index.clamp(max=x.shape[2] - 1).flatten(2).unsqueeze(-1)
    return x.gather(2, flat.expand(*flat.shape[:3], x.shape[3])).unflatten(2, index.shape[2:])


def _back(x: Tensor, slot: Tensor) -> Tensor:
    """x (B, H, rounds, N, C, F) in slots -> (B, H, rounds, T, F) in the order of positions."""
    return x.flatten(3, 4).gather(3, slot.unsqueeze(-1).expand(*slot.shape, x.shape[-1]))
