"""Attention among keys that hash like the query (Reformer: Kitaev, Kaiser and Levskaya 2020, section 2).

Queries and keys fall into buckets by random rotations, several times (rounds). In each round a query sees, of the keys
in its own bucket,

* where causal, the `bucket_size` last ones before it,
* where not, the `bucket_size` / 2 nearest ones on either side.

A query sees its own key only where no round brings it any other. All that the rounds bring is merged into one softmax
(section 2, "Multi-round LSH attention", and appendix A), where a key that several rounds bring counts once.

Deviations. The paper shares queries and keys; here that is an option, `share_qk`, as it is for `full` and `windowed`:
it is a change of its own, and would confound a comparison. The paper cuts the sorted keys into chunks and lets a
query see its own chunk and the one before, so that the sizes of other buckets, later positions included, decide which
keys an early query sees. Here the reach is counted from the query's own place in its bucket, within the same work of
one chunk and one back, which closes that leak: a causal model's outputs do not depend on later tokens in any way.
"""

from __future__ import annotations

from typing import Unpack, cast

import torch
from torch import Tensor

from ablab.model.attention.base import AttentionCore, DropoutPlace, Switches, repeat_heads, self_only_if_alone
from ablab.model.attention.buckets import seen_in_buckets
from ablab.model.attention.by_position import attend_to
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.flex.call import wanted
from ablab.model.attention.flex.sparse import flex_sparse_attention
from ablab.model.attention.full import all_visited, full_attention
from ablab.model.attention.hashed_cache import HashedCache
from ablab.model.attention.hashing import RotationHash, bucket_figures, hash_buckets
from ablab.model.attention.operators import sparse_attention
from ablab.model.spec import LayerSpec, require_at_least


class LSHAttention(AttentionCore):
    """Time grows as T log T for sorting plus rounds * T * bucket_size for attending, memory as rounds * T.

    On a CPU by chunks (`ablab.model.attention.hashed`), on CUDA by one call of FlexAttention
    (`ablab.model.attention.flex.sorted`).

    Args:
        rounds: independent hashings, at least 1.
        bucket_size: mean number of keys in a bucket, and the most that a query sees of its bucket in a round.
        buckets: 1, or an even number; None for about T / bucket_size.
        factored: hash by two smaller rotations in place of one; see `ablab.model.attention.hashing.RotationHash`.
        dense_below: shorter sequences are attended to in full, since hashing saves no time there; 0: never.
    """

    by_head = True
    takes_slopes = True

    def __init__(
        self,
        spec: LayerSpec,
        *,
        rounds: int,
        bucket_size: int,
        buckets: int | None = None,
        factored: bool = False,
        dense_below: int = 0,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        share_qk: bool = False,
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__(spec, dropout=dropout, dropout_on=dropout_on, share_qk=share_qk, **switches)
        self.hash = RotationHash(spec, rounds=rounds, bucket_size=bucket_size, buckets=buckets, factored=factored)
        require_at_least(0, "dense_below", dense_below)
        self.dense_below = dense_below
        self.by_length = buckets is None or dense_below > 0
        self._figures: dict[str, float] = {}

    def resample(self, step: int) -> None:
        """Use the rotations of training step `step`."""
        self.hash.redraw(step)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return self._attend(q, k, v, key_padding_mask, q.shape[2])

    def new_cache(self, batch: int, capacity: int, *, heads: int, size: int, like: Tensor) -> LayerCache | None:
        if not self.causal:
            return None
        return HashedCache(batch, heads, capacity, size, rounds=self._rounds(capacity), like=like)

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        rounds = self._rounds(length)
        return HashedCache.numbers(length, heads=heads, size=size, rounds=rounds) if self.causal else None

    def extend(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step) -> Tensor:
        kept = cast(HashedCache, cache)
        keys, values, asked = kept.extend(q, k, v, step, self.hash, share_qk=self.share_qk)
        if step.first:
            return self._attend(q, k, v, step.padding, kept.capacity)
        at, places = step.positions[:, None, :, None], torch.arange(step.total, device=q.device)
        if asked is None:
            return attend_to(self, q, keys, values, places <= at, at, places)
        seen = kept.seen(asked, step, self.hash.bucket_size)
        seen = seen | (~seen.any(-1, keepdim=True) & (places == at))
        return attend_to(self, q, keys, values, seen, at, places)

    def _rounds(self, length: int) -> int:
        """Of hashing sequences of so many tokens."""
        return 0 if length < self.dense_below else self.hash.rounds

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, length: int) -> Tensor:
        """`attend`, hashed as sequences of `length` are."""
        if length < self.dense_below:
            return full_attention(self, q, k, v, key_padding_mask)
        by_flex = wanted(q)
        buckets = hash_buckets(
            self.hash, q, k, key_padding_mask,
            causal=self.causal, share_qk=self.share_qk, length=length, grouped=by_flex,
        )  # fmt: skip
        attention, heads = (flex_sparse_attention, k.shape[1]) if by_flex else (sparse_attention, q.shape[1])
        return attention(
            q, repeat_heads(k, heads), repeat_heads(v, heads), buckets=buckets,
            slopes=self.slopes, sinks=self.sinks, softcap=self.softcap,
            key_padding_mask=key_padding_mask, own_if_alone=True,
        )  # fmt: skip

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        if q.shape[2] < self.dense_below:
            return all_visited(self, positions, k.shape[2])
        buckets = hash_buckets(self.hash, q, k, None, causal=self.causal, share_qk=self.share_qk)
        self._figures = bucket_figures(buckets)
        return self_only_if_alone(seen_in_buckets(buckets, positions), positions)

    def mechanism(self) -> dict[str, float]:
        """Sizes of buckets, as they were when the core was last measured."""
        return self._figures
