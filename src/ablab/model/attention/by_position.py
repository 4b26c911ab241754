"""Cores that go on from cached keys and values, and those in which positions alone say which keys a query sees."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from ablab.model.attention.base import AttentionCore, by_query
from ablab.model.attention.cache import KeyValueCache, LayerCache, Step
from ablab.model.attention.dense import softmax_attention


class KeyValueCore(AttentionCore):
    """Goes on from keys and values. Subclasses implement `attend_past`, and `keeps` if it is less than all."""

    def keeps(self, length: int) -> tuple[int, int]:
        """Of how many tokens of a sequence later ones need keys and values, and how many of these are the first ones;
        the others are the newest."""
        return length, 0

    def new_cache(self, batch: int, capacity: int, *, heads: int, size: int, like: Tensor) -> LayerCache | None:
        if not self.causal:
            return None
        slots, fixed = self.keeps(capacity)
        return KeyValueCache(batch, heads, slots, size, like=like, fixed=fixed)

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        return 2 * self.keeps(length)[0] * heads * size if self.causal else None

    def extend(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step) -> Tensor:
        found = cast(KeyValueCache, cache).extend(k, v, step)
        if step.first:
            return self.attend(q, k, v, step.padding)
        return self.attend_past(q, *found, step)

    def attend_past(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, step: Step) -> Tensor:
        """What new tokens get of keys and values (B, K, L, size) at `positions`, of `KeyValueCache.extend`."""
        raise NotImplementedError


class PositionalCore(KeyValueCore):
    """Sees keys by a rule that knows their positions alone. Subclasses implement `sees`, and `keeps` if it is less."""

    def sees(self, query: Tensor, key: Tensor) -> Tensor | None:
        """Whether queries at positions `query` see keys at positions `key`, at most as far on, bool, broadcast; shared
        queries and keys apart. None: all of them."""
        raise NotImplementedError

    def attend_past(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, step: Step) -> Tensor:
        at, keys = step.positions[:, None, :, None], positions.unsqueeze(-2)
        keys = keys if positions.dim() == 1 else keys.unsqueeze(1)  # (1, L) or (B, 1, 1, L)
        rule = self.sees(at, keys)
        if rule is None and positions.dim() == 1 and q.shape[2] == 1 and step.alike:
            seen = None
        else:
            seen = (keys <= at) & (keys >= 0)
            seen = seen if rule is None else seen & rule
        return attend_to(self, q, k, v, seen, at, keys)


def attend_to(
    core: AttentionCore, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, at: Tensor, keys: Tensor
) -> Tensor:
    """Attention with the switches of a core, its slopes and shared queries and keys, to keys at any positions.

    Args:
        q: (B, H, S, D), at positions `at` (B, 1, S, 1).
        k: (B, K, L, D), at positions `keys`, broadcastable to (B, 1, S, L).
        v: (B, K, L, Dv).
        seen: bool, broadcastable to (B, H, S, L); None: a query sees all of them.

    Returns:
        (B, H, S, Dv), zero where a query sees nothing.
    """
    if core.share_qk:
        own = keys == at
        others = ~own if seen is None else seen & ~own
        seen = others | (~others.any(-1, keepdim=True) & own)
    if core.slopes is not None:
        bias = (-core.slopes[:, None, None] * (at - keys).abs()).to(q.dtype)
        seen = bias if seen is None else torch.where(seen, bias, -math.inf)
    return softmax_attention(q, k, v, mask=seen, sinks=by_query(core.sinks), softcap=core.softcap)
