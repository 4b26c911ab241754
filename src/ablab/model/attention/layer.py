"""The attention layer that a block calls: projections around a core.

Most options of the axis are cores, which `MultiHeadAttention` surrounds with projections. An option whose point is the
projections themselves is an `AttentionLayer` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ablab.model.attention.base import AttentionCore
from ablab.model.attention.cache import LayerCache
from ablab.model.attention.projections import HeadNorm, gate_of, gated, join_heads, normed, scaled, split_heads
from ablab.model.attention.recurrence import Recurrence
from ablab.model.context import LayerContext
from ablab.model.initialisation import ResidualLinear
from ablab.model.spec import LayerSpec

Rotate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Values = Callable[[Tensor], Tensor]
View = tuple[slice, Tensor]

SHORTEST = 1e-6  # a query shorter than this is not stretched to length one; above zero even in float16


class AttentionLayer(nn.Module):
    """Mixes the stream over positions. Whatever it does, the mixing itself is done by its `core`.

    Attributes:
        takes_values: `LayerContext.values` acts on its values.
        rotates: whether it has queries and keys for the position to rotate.
        groups_heads: whether heads of keys and values may be fewer than those of queries (`model.n_kv_heads`).
        query_size: coordinates of queries over which scores are sums; 0 where keys have length one.
        query_factor: multiplies queries; see `ablab.model.parametrisation`.
    """

    takes_values = False
    groups_heads = True
    query_size = 0
    query_factor = 1.0
    core: AttentionCore | Recurrence
    rotates: bool = True

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix the stream.

        Args:
            x: (B, T, d_model).
            rotate: the position's, which takes queries and keys of (B, any number of heads, T, head_size).
            key_padding_mask: (B, T) bool, true where there is no token.

        Returns:
            (B, T, d_model).
        """
        raise NotImplementedError

    def within(self, x: Tensor, context: LayerContext) -> Tensor:
        """`forward` as a block calls it. A layer that needs more of the context than `forward` takes overrides it."""
        mixed: Tensor = self(x, context.rotate, context.key_padding_mask)
        return mixed

    def new_cache(self, batch: int, capacity: int) -> LayerCache | None:
        """An empty one, for so many tokens of each of so many samples; None: it cannot go on from anything less than
        the whole sequence."""
        return None

    def cache_numbers(self, length: int) -> int | None:
        """How many numbers it keeps of a sample of so many tokens; None where there is no cache."""
        return None

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        """`within` for new tokens alone.

        Args:
            x: (B, S, d_model), of the tokens that the context's `step` names; it rotates by their positions.
            cache: has what is kept of those before them, and afterwards of these, too.

        Returns:
            (B, S, d_model), which means nothing where a sample has no new token.
        """
        raise NotImplementedError

    def attend_each(self, x: Tensor, rotate: Rotate, views: Iterable[View]) -> Tensor:
        """The stream mixed under one mask after the other, (B, T, d_model).

        Args:
            views: where the queries are that see what a mask leaves, and the mask (B, T); together the places are the
                whole sequence, in order.
        """
        return torch.cat([self(x, rotate, mask)[:, place] for place, mask in views], 1)


class MultiHeadAttention(AttentionLayer):
    """Projections around an attention core (Vaswani et al. 2017, section 3.2.2).

    Query, key and value are layers of their own, so that each has its own name, and with it its own initial value.
    Heads of keys and values may be fewer than those of queries (Ainslie et al. 2023, grouped-query attention). Where
    the core shares queries and keys there is no projection of keys: they are the rotated queries at length one.

    Two switches of cores are the layer's to carry out. With `qk_norm` each head's queries and keys are divided by their
    root mean square before they are rotated, with factors that all heads of a layer share (Qwen3, arXiv 2505.09388,
    section 2; OLMo 2, arXiv 2501.00656, section 3.3, norms all heads of a token together instead). With `output_gate`
    what the core returns is multiplied by a sigmoid of a projection of the layer's input, one number for each head or
    one for each of its features (Qiu et al. 2025, arXiv 2505.06708, section 2.2, position G1).
    """

    takes_values = True
    core: AttentionCore

    def __init__(self, spec: LayerSpec, *, core: AttentionCore) -> None:
        super().__init__()
        width = spec.kv_heads * spec.head_size
        self.head_size, self.share_qk = spec.head_size, core.share_qk
        self.query_size = 0 if core.share_qk else spec.head_size
        self._heads = spec.kv_heads
        self.query = nn.Linear(spec.d_model, spec.d_model, bias=spec.bias)
        if not self.share_qk:
            self.key = nn.Linear(spec.d_model, width, bias=spec.bias)
        self.value = nn.Linear(spec.d_model, width, bias=spec.bias)
        self.query_norm = HeadNorm(spec.head_size, eps=1e-6) if core.qk_norm else None
        self.key_norm = HeadNorm(spec.head_size, eps=1e-6) if core.qk_norm and not self.share_qk else None
        self.core = core
        self.output_gate = gate_of(spec, core)
        self.output = ResidualLinear(spec.d_model, spec.d_model, bias=spec.bias, n_layers=spec.n_layers)

    def forward(
        self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None, values: Values | None = None
    ) -> Tensor:
        q, k, v = self._projected(x, rotate)
        mixed = gated(self.core(q, k, v if values is None else values(v), key_padding_mask), x, self.output_gate)
        return cast(Tensor, self.output(join_heads(mixed)))

    def within(self, x: Tensor, context: LayerContext) -> Tensor:
        mixed: Tensor = self(x, context.rotate, context.key_padding_mask, context.values)
        return mixed

    def new_cache(self, batch: int, capacity: int) -> LayerCache | None:
        return self.core.new_cache(batch, capacity, heads=self._heads, size=self.head_size, like=self.value.weight)

    def cache_numbers(self, length: int) -> int | None:
        return self.core.cache_numbers(length, heads=self._heads, size=self.head_size)

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        assert context.step is not None
        q, k, v = self._projected(x, context.rotate)
        mixed = self.core.extend(q, k, v if context.values is None else context.values(v), cache, context.step)
        return cast(Tensor, self.output(join_heads(gated(mixed, x, self.output_gate))))

    def attend_each(self, x: Tensor, rotate: Rotate, views: Iterable[View]) -> Tensor:
        q, k, v = self._projected(x, rotate)  # once for all of them
        mixed = torch.cat([self.core(q, k, v, mask)[:, :, place] for place, mask in views], 2)
        return cast(Tensor, self.output(join_heads(gated(mixed, x, self.output_gate))))

    def _projected(self, x: Tensor, rotate: Rotate) -> tuple[Tensor, Tensor, Tensor]:
        q = normed(split_heads(self.query(x), self.head_size), self.query_norm)
        if self.share_qk:
            q, _ = rotate(q, q)
            k = normalize(q, dim=-1, eps=SHORTEST)
        else:
            q, k = rotate(q, normed(split_heads(self.key(x), self.head_size), self.key_norm))
        return scaled(q, self.query_factor), k, split_heads(self.value(x), self.head_size)


def attention_layer(spec: LayerSpec, option: Callable[[LayerSpec], nn.Module]) -> AttentionLayer:
    """The layer of an option of the attention axis: what it makes, with projections around it if it is a core.

    Raises:
        ValueError: it is neither.
    """
    made = option(spec)
    if isinstance(made, AttentionLayer):
        if not hasattr(made, "core"):
            raise ValueError(f"{type(made).__name__} has no `core`, the part of an AttentionLayer that mixes positions")
        return made
    if isinstance(made, AttentionCore):
        return MultiHeadAttention(spec, core=made)
    raise ValueError(f"{type(made).__name__} is neither an AttentionCore nor an AttentionLayer (ablab.model.attention)")
