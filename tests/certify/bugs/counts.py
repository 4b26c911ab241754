"""What is counted of a component, and is not what it does: FLOPs on tensors without values, and a cache's numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ablab.model.attention.by_position import KeyValueCore
from ablab.model.attention.cache import KeyValueCache, LayerCache, Step
from ablab.model.attention.full import FullAttention, full_attention
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.feed_forward.base import Dense, FeedForward
from ablab.model.layer_fusion.learned import AdaptiveFusion
from ablab.model.spec import LayerSpec

Activation = Callable[[LayerSpec], nn.Module]


class _Capped(FullAttention):
    """Right: full attention with bounded scores."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, softcap=3.0)


class DearOnMeta(WindowedAttention):
    """Where FLOPs are counted it attends to everything, as its first version did: dearer than it is."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, window=4)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if q.is_meta:
            return full_attention(self, q, k, v, key_padding_mask)
        return super().attend(q, k, v, key_padding_mask)


class OneExpertOnMeta(FeedForward):
    """A soft mixture of four experts, of which one is asked where tensors have no values."""

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__()
        self.router = nn.Linear(spec.d_model, 4)
        self.experts = nn.ModuleList(Dense(spec, activation=activation) for _ in range(4))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        gates = self.router(x).softmax(-1)
        asked = [*self.experts][:1] if x.is_meta else [*self.experts]
        return sum((gates[..., i, None] * each(x) for i, each in enumerate(asked)), torch.zeros_like(x))


class NoGradientOnMeta(Dense):
    """Computes its gradient only where tensors have values: a step is counted without half of it."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        if x.is_meta:
            with torch.no_grad():
                return super().forward(x.sin(), key_padding_mask, ids)
        return super().forward(x.sin(), key_padding_mask, ids)


class CheapWhenDecoded(_Capped):
    """A decoded token is counted as if it looked at itself alone."""

    def extend(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step) -> Tensor:
        return self.attend(q, k, v, step.padding) if q.is_meta else super().extend(q, k, v, cache, step)


class CacheForgetsValues(_Capped):
    """The formula of the cache has the keys, and not the values."""

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        return length * heads * size if self.causal else None


class CacheOfAllHeads(_Capped):
    """The formula of the cache has as many heads as queries have: wrong where heads are grouped."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.queries = spec.n_heads

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        return 2 * length * self.queries * size if self.causal else None


class CacheOfAWindow(WindowedAttention):
    """Says that it keeps its window, and keeps everything."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, window=16)

    def keeps(self, length: int) -> tuple[int, int]:
        return length, 0

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        return 2 * min(length, 16) * heads * size if self.causal else None


class CacheRoundedUp(_Capped):
    """Takes room for the next power of two of tokens, of which its formula knows nothing."""

    def new_cache(self, batch: int, capacity: int, *, heads: int, size: int, like: Tensor) -> LayerCache | None:
        return super().new_cache(batch, 1 << (capacity - 1).bit_length(), heads=heads, size=size, like=like)


class NoNumbers(_Capped):
    """Has a cache, and says that it has none."""

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        return None


class _Listed(KeyValueCache):
    """Keeps what comes in a list besides."""

    def extend(self, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        vars(self).setdefault("past", []).append(k.clone())
        return super().extend(k, v, step)


class KeptInAList(_Capped):
    """The cache has a list of all keys besides, which is in no count and grows with every pass."""

    def new_cache(self, batch: int, capacity: int, *, heads: int, size: int, like: Tensor) -> LayerCache | None:
        return _Listed(batch, heads, capacity, size, like=like) if self.causal else None


class KeptOnTheModule(KeyValueCore):
    """The keys lie on the module, and the cache has the values alone."""

    def new_cache(self, batch: int, capacity: int, *, heads: int, size: int, like: Tensor) -> LayerCache | None:
        self.past = like.new_zeros(batch, heads, capacity, size)
        return KeyValueCache(batch, heads, capacity, 0, like=like, value_size=size) if self.causal else None

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        return length * heads * size if self.causal else None

    def extend(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step) -> Tensor:
        _, values, _ = cache.extend(k[..., :0], v, step)  # type: ignore[attr-defined]
        rows = torch.arange(len(k))[:, None]
        self.past[rows, :, step.positions] = k.mT.transpose(1, 3).transpose(2, 3)
        keys = torch.arange(step.total)
        hidden = keys > step.positions[:, None, :, None]
        scores = 2 * q @ self.past[:, :, : step.total].mT / q.shape[-1] ** 0.5
        mixed: Tensor = scores.masked_fill(hidden, -1e9).softmax(-1) @ values
        return mixed

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return full_attention(self, 2 * q, k, v, key_padding_mask)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        keys = torch.arange(k.shape[2], device=k.device)
        return keys <= positions[:, None] if self.causal else torch.ones_like(keys <= positions[:, None])


class SummaryUncounted(AdaptiveFusion):
    """Keeps a sum over the sequence, and says that it keeps nothing."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, per="sequence")

    def cache_numbers(self) -> int:
        return 0


class DearWhenWarm(_Capped):
    """Behind its first ten steps it works three times as hard as it is counted where tensors have no values."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.step = 0

    def resample(self, step: int) -> None:
        self.step = step

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        own = super().attend(q, k, v, key_padding_mask)
        if self.step <= 10 or q.is_meta:
            return own
        return (own + super().attend(q, k, v, key_padding_mask) + super().attend(q, k, v, key_padding_mask)) / 3
