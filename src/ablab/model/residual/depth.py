"""Attention over depth: what a part reads is a weighted mean of what all parts before it gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from torch.utils.flop_counter import flop_registry, register_flop_formula

from ablab.model.context import full_precision
from ablab.model.residual.base import Ends, Part, Residual, share_entropy
from ablab.model.spec import LayerSpec, require_at_least

NORM_EPS = 1e-6


class DepthAttention(Residual):
    """Attention residuals (Kimi Team 2026, arXiv 2603.15031).

    Part l reads sum_i softmax_i(w_l . norm(v_i)) v_i over the embedded tokens v_0 and what the parts before it gave,
    with one vector w_l to learn, from 0: at the start it reads their mean, and not, as `plain` does, their sum. The
    head reads likewise. The state is the v_i, (B, T, as many as there are so far, d_model).

    With `group` above 1 the parts of a group are summed up, and part l reads over the sums of the groups before it and
    over what there is of its own ("block attention residuals").

    Deviation: the norm has no factor of its own, which w_l absorbs.

    Args:
        group: parts whose outputs are summed up.
    """

    is_stream = False
    summed_over: ClassVar = {"query": (0,)}

    def __init__(self, spec: LayerSpec, *, place: int, group: int = 1) -> None:
        super().__init__(spec, place=place)
        require_at_least(1, "residual.group", group)
        self.group = group
        # The first part has nothing to choose from.
        self.query = nn.Parameter(torch.zeros(spec.d_model)) if place else None
        if place:
            self.sees = _names("feed_forward" if place % 2 else "attention", entries(place, group))

    def forward(self, state: Tensor, part: Part) -> Tensor:
        added = part(state[..., -1, :] if self.query is None else read(state, self.query)).to(state.dtype)
        if self.place % self.group:
            before, own = state.split([state.shape[-2] - 1, 1], -2)
            return torch.cat([before, own + added.unsqueeze(-2)], -2)
        return torch.cat([state, added.unsqueeze(-2)], -2)

    def seen(self, state: Tensor) -> list[Tensor]:
        return [] if self.query is None else _told(state, self.query)

    def ends(self, spec: LayerSpec) -> Ends:
        return LastRead(spec, self.group)


class LastRead(Ends):
    """The state begins as the embedded tokens alone; in the end it is read as a part would read it."""

    summed_over: ClassVar = {"query": (0,)}

    def __init__(self, spec: LayerSpec, group: int) -> None:
        super().__init__()
        self.group = group
        self.query = nn.Parameter(torch.zeros(spec.d_model))
        self.sees = _names("head", entries(2 * spec.n_layers, group))

    def begin(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-2)

    def forward(self, state: Tensor) -> Tensor:
        return read(state, self.query)

    def seen(self, state: Tensor) -> list[Tensor]:
        return _told(state, self.query)

    def like(self, x: Tensor, layer: int) -> Tensor:
        shape = *x.shape[:-1], entries(2 * layer, self.group), x.shape[-1]
        return torch.empty(shape, dtype=x.dtype, device=x.device)


def entries(place: int, group: int) -> int:
    """How many the state has in front of the part of that place."""
    return 1 + math.ceil(place / group)


def weights(state: Tensor, query: Tensor) -> Tensor:
    """Those of the entries of the state (B, T, k, d_model), (B, T, k), which add up to 1."""
    return (rms_norm(state, state.shape[-1:], eps=NORM_EPS) @ query.to(state.dtype)).softmax(-1)


def _product_flops(matrix: Sequence[int], vector: Sequence[int], *others: object, **settings: object) -> int:
    """Of a matrix by one vector, as that of the entries with a query is; the registry has those of two matrices."""
    return 2 * math.prod(matrix)


if torch.ops.aten.mv not in flop_registry:
    register_flop_formula(torch.ops.aten.mv)(_product_flops)


def read(state: Tensor, query: Tensor) -> Tensor:
    """The weighted mean of the entries, (B, T, d_model), in float32 at least."""
    with full_precision(state.device.type):
        exact = state.to(torch.promote_types(state.dtype, torch.float32))
        return (weights(exact, query).unsqueeze(-2) @ exact).squeeze(-2).to(state.dtype)


def _names(reader: str, count: int) -> list[str]:
    """The entropy of what is read, 1 of equal weights, and the weight of each entry; the first is the embedding."""
    return [f"{reader}_read_entropy", *(f"{reader}_reads/{entry}" for entry in range(count))]


def _told(state: Tensor, query: Tensor) -> list[Tensor]:
    shares = weights(state.to(torch.promote_types(state.dtype, torch.float32)), query)
    return [share_entropy(shares), *shares.unbind(-1)]
