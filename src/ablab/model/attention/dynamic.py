"""Attention whose window adapts in size and in position, what the articles call dynamic attention.

* Size: how far each head looks among the `window` nearest keys is learned, with a soft edge
  (`AdaptiveSpan`).
* Position: beyond its local window each query also sees the keys that hashing puts into its bucket
  (`ablab.model.attention.lsh`), wherever they are.

Local and hashed keys share one softmax, in which no key counts twice: hashed keys are those that the window, or where
its size adapts the query's own reach, leaves out. Each half can be switched off.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Unpack, cast

import torch
from torch import Tensor

from ablab.model.attention.base import AttentionCore, DropoutPlace, Switches, by_query, repeat_heads, scores_of
from ablab.model.attention.buckets import Buckets, seen_in_buckets
from ablab.model.attention.cache import KeyValueCache, LayerCache, Step
from ablab.model.attention.dense import softmax_attention, weighted_attention
from ablab.model.attention.flex.call import wanted
from ablab.model.attention.flex.masks import shared
from ablab.model.attention.flex.sparse import flex_sparse_attention
from ablab.model.attention.full import full_attention
from ablab.model.attention.hashed_cache import HashedCache
from ablab.model.attention.hashing import RotationHash, bucket_figures, hash_buckets
from ablab.model.attention.local import Local, Spans
from ablab.model.attention.operators import sparse_attention
from ablab.model.attention.span import AdaptiveSpan, own_if_alone
from ablab.model.spec import LayerSpec, require_at_least


class DynamicAttention(AttentionCore):
    """Time grows as T * window for the local keys plus, where the position adapts, as that of `LSHAttention`.

    On a CPU as one operator (`ablab.model.attention.operators`), on CUDA as two calls of FlexAttention.

    Parameters of its own: where the size adapts, one per head, and with `span_per_query` head_size more.

    Args:
        window: local keys, as of `WindowedAttention`.
        adapt_size: learn each head's span within the window.
        adapt_position: attend to hashed keys beyond the window.
        ramp: width of the span's soft edge, in tokens.
        initial_span: in tokens; None for half of the window.
        span_per_query: each query has a span of its own.
        span_penalty: added to the loss per token of the mean span.
        rounds: of hashing; with `bucket_size`, `buckets` and `factored` as of `LSHAttention`.
        dense_below: shorter sequences are not hashed, all keys beyond the window being seen; 0: never.

    Raises:
        ValueError: a number is out of its range, or neither size nor position adapts, which is `windowed`.
    """

    takes_slopes = True

    def __init__(
        self,
        spec: LayerSpec,
        *,
        window: int,
        adapt_size: bool = True,
        adapt_position: bool = True,
        ramp: float = 32.0,
        initial_span: float | None = None,
        span_per_query: bool = False,
        span_penalty: float = 1e-4,
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
        require_at_least(1, "window", window)
        require_at_least(0, "dense_below", dense_below)
        if not (adapt_size or adapt_position):
            raise ValueError(
                "attention.adapt_size=false and attention.adapt_position=false: nothing adapts; use attention=windowed"
            )
        self.window, self.dense_below = window, dense_below
        back, ahead = (window - 1, 0) if spec.causal else (window, window)
        self.local = shared(Local(back=back, ahead=ahead, own=not share_qk))
        self.span: AdaptiveSpan | None = None
        if adapt_size:
            self.span = AdaptiveSpan(
                spec,
                widest=window,
                ramp=ramp,
                initial=initial_span,
                per_query=span_per_query,
                penalty=span_penalty,
            )
        self.hash: RotationHash | None = None
        if adapt_position:
            self.hash = RotationHash(spec, rounds=rounds, bucket_size=bucket_size, buckets=buckets, factored=factored)
            self.by_length = buckets is None or dense_below > 0
        self._figures: dict[str, float] = {}

    def resample(self, step: int) -> None:
        """Use the rotations of training step `step`."""
        if self.hash is not None:
            self.hash.redraw(step)

    def spans(self, q: Tensor) -> Tensor:
        """The spans of the queries q (B, H, T, D), in tokens: broadcastable to (B, H, T)."""
        if self.span is None:
            return torch.full((1, 1, 1), float(self.window), device=q.device)
        spans: Tensor = self.span(q)
        return spans[None, :, None] if spans.dim() == 1 else spans

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return self._attend(q, k, v, key_padding_mask, q.shape[2])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, length: int) -> Tensor:
        """`attend`, hashed as sequences of `length` are."""
        if length < self.dense_below:
            if self.span is None:
                return full_attention(self, q, k, v, key_padding_mask)
            weights = self._weigh(q, None, torch.arange(q.shape[2], device=q.device))
            return weighted_attention(
                q, k, v, weights, key_padding_mask,
                own_if_alone=self.share_qk, slopes=self.slopes, sinks=self.sinks, softcap=self.softcap,
            )  # fmt: skip
        spans: Tensor | None = None if self.span is None else self.span(q)
        by_flex = wanted(q)
        attention = flex_sparse_attention if by_flex else sparse_attention
        heads = k.shape[1] if by_flex else q.shape[1]
        return attention(
            q,
            repeat_heads(k, heads),
            repeat_heads(v, heads),
            local=self.local,
            slopes=self.slopes,
            sinks=self.sinks,
            softcap=self.softcap,
            spans=None if spans is None or self.span is None else Spans(tokens=spans, ramp=self.span.ramp),
            buckets=self._buckets(q, k, spans, key_padding_mask, length, grouped=by_flex),
            key_padding_mask=key_padding_mask,
            own_if_alone=self.share_qk,
        )

    def new_cache(self, batch: int, capacity: int, *, heads: int, size: int, like: Tensor) -> LayerCache | None:
        if not self.causal:
            return None
        if self.hash is None:
            return KeyValueCache(batch, heads, min(capacity, self.window), size, like=like)
        return HashedCache(batch, heads, capacity, size, rounds=self._rounds(capacity), like=like)

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        kept = length if self.hash is not None else min(length, self.window)
        rounds = self._rounds(length)
        return HashedCache.numbers(kept, heads=heads, size=size, rounds=rounds) if self.causal else None

    def extend(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step) -> Tensor:
        at, beyond = step.positions[:, None, :, None], None
        if isinstance(cache, HashedCache):
            keys, values, asked = cache.extend(q, k, v, step, self.hash, share_qk=self.share_qk)
            length, places = cache.capacity, torch.arange(step.total, device=q.device)
            if asked is not None and self.hash is not None and not step.first:
                beyond = cache.seen(asked, step, self.hash.bucket_size)
        else:
            keys, values, places = cast(KeyValueCache, cache).extend(k, v, step)
            length = step.total
            places = places if places.dim() == 1 else places[:, None, None]  # (L,) or (B, 1, 1, L)
        if step.first:
            return self._attend(q, k, v, step.padding, length)
        spans = None if self.span is None else self.span(q)
        weights = self._weights_at(at - places, spans, self._reach(q, spans), beyond).masked_fill(places < 0, 0)
        if self.share_qk:
            weights = own_if_alone(weights, at == places)
        bias = weights.log().to(q.dtype)
        if self.slopes is not None:
            bias = bias - (self.slopes[:, None, None] * (at - places)).to(q.dtype)
        return softmax_attention(q, keys, values, mask=bias, sinks=by_query(self.sinks), softcap=self.softcap)

    def _rounds(self, length: int) -> int:
        """Of hashing sequences of so many tokens."""
        return 0 if self.hash is None or length < self.dense_below else self.hash.rounds

    def _buckets(
        self, q: Tensor, k: Tensor, spans: Tensor | None, key_padding_mask: Tensor | None, length: int | None = None,
        *, grouped: bool = False,
    ) -> Buckets | None:  # fmt: skip
        if self.hash is None:
            return None
        buckets = hash_buckets(
            self.hash, q, k, key_padding_mask,
            causal=self.causal, share_qk=self.share_qk, length=length, grouped=grouped,
        )  # fmt: skip
        return replace(buckets, beyond=self._reach(q, spans))

    def _reach(self, q: Tensor, spans: Tensor | None) -> Tensor:
        """The least distance at which a key is no local one: broadcastable to (B, H, T)."""
        farthest = self.local.back + 1
        if self.span is None or spans is None:
            return torch.full((1, 1, 1), float(farthest), device=q.device)
        reach = self.span.reach(spans).clamp(max=farthest)
        return reach[None, :, None] if reach.dim() == 1 else reach

    def _weigh(self, q: Tensor, k: Tensor | None, positions: Tensor) -> Tensor:
        """Factors of exp(score), without `share_qk`'s rule: (B or 1, H or 1, S, T).

        k is needed for hashing; without it all keys beyond the local ones are seen.
        """
        T = q.shape[2]
        distance = positions[:, None] - torch.arange(T, device=q.device)
        spans = None if self.span is None else self.span(q)
        reach = self._reach(q, spans).expand(1 if spans is None or spans.dim() == 1 else len(q), -1, T)[..., positions]
        buckets = None if k is None else self._buckets(q, k, spans, None)
        beyond = None if buckets is None else seen_in_buckets(buckets, positions)
        own = spans if spans is None or spans.dim() == 1 else spans[..., positions]
        return self._weights_at(distance, own, reach, beyond)

    def _weights_at(self, distance: Tensor, spans: Tensor | None, reach: Tensor, beyond: Tensor | None) -> Tensor:
        """Factors of exp(score) of keys at distances (S, T), broadcastable to (B, H, S, T), without `share_qk`'s rule.

        Args:
            spans: of the queries, as `AdaptiveSpan` gives them.
            reach: (B or 1, H or 1, S or 1), as `_reach` gives it.
            beyond: bool, the keys that hashing brings; None: all of them.
        """
        away = distance.abs()
        far = away >= reach.unsqueeze(-1)
        local = (~far).to(reach.dtype)
        if self.span is not None and spans is not None:
            local = local * self.span.weight(spans[None, :, None] if spans.dim() == 1 else spans, away)
        if self.hash is None:
            far = torch.zeros_like(far)
        elif beyond is not None:
            far = far & beyond
        weights = local + far.to(local.dtype)
        return weights * (distance >= 0) if self.causal else weights

    def _weigh_sampled(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        weights = self._weigh(q, None if q.shape[2] < self.dense_below else k, positions)
        if not self.share_qk:
            return weights
        return own_if_alone(weights, positions[:, None] == torch.arange(q.shape[2], device=q.device))

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        self._figures = self._measure(q, k)
        return self._weigh_sampled(q, k, positions) > 0

    def weights(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        beside = self._weigh_sampled(q, k, positions)
        scores = scores_of(q, k, positions, self.slopes, self.softcap).masked_fill(beside == 0, -math.inf)
        most = scores.amax(-1, keepdim=True)
        weights = beside * (scores - most).exp()
        total = weights.sum(-1, keepdim=True)
        return weights / (total if self.sinks is None else total + (self.sinks[:, None, None] - most).exp())

    def mechanism(self) -> dict[str, float]:
        """Spans in tokens and sizes of buckets, as they were when the core was last measured."""
        return self._figures

    def _measure(self, q: Tensor, k: Tensor) -> dict[str, float]:
        figures: dict[str, float] = {}
        if self.span is not None:
            heads = self.spans(q).expand(len(q), q.shape[1], q.shape[2]).mean((0, 2)).tolist()
            figures = {"span_mean": sum(heads) / len(heads), "span_min": min(heads), "span_max": max(heads)}
            figures |= {f"span/head_{head}": span for head, span in enumerate(heads)}
        if self.hash is not None and q.shape[2] >= self.dense_below:
            buckets = hash_buckets(self.hash, q, k, None, causal=self.causal, share_qk=self.share_qk)
            figures |= bucket_figures(buckets)
        return figures
