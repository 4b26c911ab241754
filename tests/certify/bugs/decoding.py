"""Positions and caches that go wrong where tokens come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.full import FullAttention
from ablab.model.attention.gated_delta import GatedDeltaNet
from ablab.model.attention.layer import MultiHeadAttention, Rotate
from ablab.model.attention.linear import StateCache
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.context import LayerContext, unrotated
from ablab.model.feed_forward.base import Dense
from ablab.model.layer_fusion.learned import AdaptiveFusion
from ablab.model.position import Learned, Position, Rope, rows
from ablab.model.spec import LayerSpec


class OwnKeyForgotten(WindowedAttention):
    """With a cache a query sees the keys before its own, and not its own."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, window=16)

    def sees(self, query: Tensor, key: Tensor) -> Tensor | None:
        return (key < query) & (key > query - 16)


class WindowKeptShort(WindowedAttention):
    """The cache keeps half of the keys that the window reaches."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, window=16)

    def keeps(self, length: int) -> tuple[int, int]:
        return min(length, 8), 0


class CacheNeverFilled(FullAttention):
    """New tokens attend to themselves alone: the cache is there and never read."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, softcap=3.0)

    def extend(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step) -> Tensor:
        super().extend(q, k, v, cache, step)
        return self.attend(q, k, v, step.padding)


class CacheSaysLess(FullAttention):
    """Says that it keeps a quarter of what it keeps."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, softcap=3.0)

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        whole = super().cache_numbers(length, heads=heads, size=size)
        return None if whole is None else whole // 4


class RotatedFromZero(MultiHeadAttention):
    """New tokens are not rotated by their positions."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, core=FullAttention(spec, softcap=3.0))

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        return super().extend(x, replace(context, rotate=unrotated), cache)


class StateNotKept(GatedDeltaNet):
    """The state behind new tokens is computed and not written back."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, conv_size=2)

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        state = cache.state.clone()  # type: ignore[attr-defined]
        out = super().extend(x, context, cache)
        cache.state.copy_(state)  # type: ignore[attr-defined]
        return out


class GuessesStay(GatedDeltaNet):
    """Its cache says that each token has a place of its own: a guess that was wrong stays in the state."""

    class Cache(StateCache):
        def places(self, capacity: int) -> bool:
            return True

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, conv_size=2)

    def new_cache(self, batch: int, capacity: int) -> LayerCache | None:
        cache = super().new_cache(batch, capacity)
        cache.__class__ = self.Cache
        return cache


class SummaryOfNewTokens(AdaptiveFusion):
    """With a cache the sequence is summed up by its new tokens alone."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, per="sequence")

    def extend(self, streams: Sequence[Tensor], step: Step, cache: LayerCache | None) -> Tensor:
        fused: Tensor = self(streams, step.padding)
        return fused


class OneTooFar(Rope):
    """With a cache tokens are rotated by the next position's angle; the prompt is not."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, base=100.0)

    def at(self, positions: Tensor) -> Rotate:
        return super().at((positions + (positions > 0)).clamp(max=len(self.cos) - 1))


class OffsetIgnored(Learned):
    """With a cache each new token is at position 0."""

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        return 2 * x + rows(self.weight, 0, x.shape[1])

    def add_at(self, x: Tensor, positions: Tensor) -> Tensor:
        return 2 * x + self.weight[torch.zeros_like(positions)]


class PairsMixed(Rope):
    """Angles are laid out for neighbours, 2i with 2i + 1, and coordinates are paired by halves: no rotation."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, base=100.0)
        half = self.cos.shape[-1] // 2
        for name in ("cos", "sin"):
            table = getattr(self, name)[:, -half:].repeat_interleave(2, -1)
            self.register_buffer(name, table, persistent=False)


class KeysNotRotated(Rope):
    """Queries alone are rotated: scores depend on the query's position and not on the distance."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, base=100.0)

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return super().rotate(q, k)[0], k

    def at(self, positions: Tensor) -> Rotate:
        rotate = super().at(positions)
        return lambda q, k: (rotate(q, k)[0], k)


class RandomOffset(Position):
    """In training the table starts at a place that is drawn by numbers of the whole batch."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * spec.max_length, spec.d_model))

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        if self.training:
            offset = int(x.sum().abs().item() * 1000) % (len(self.weight) // 2)
        return x + self.weight[offset : offset + x.shape[1]]

    def add_at(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.weight[positions]


class ShiftWithoutCache(Dense):
    """Mixes each token with the one before it, which is not there where tokens come one by one."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        if key_padding_mask is not None:
            x = x.masked_fill(key_padding_mask.unsqueeze(-1), 0)
        earlier = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        return super().forward(0.5 * (x + earlier))
