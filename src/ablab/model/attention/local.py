"""Local attention: keys that a query sees for being near, optionally dilated, soft-edged, and with global tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from ablab.model.attention.band import Band, Edge, band_backward, band_forward, band_scores, span_gradient
from ablab.model.attention.flex.masks import Blocks, Extent
from ablab.model.attention.kernel import FLOOR, Scale, attend, attend_backward, merge


@dataclass(frozen=True, kw_only=True)
class Local:
    """Keys that a query sees for being near, or because one of the two is global. Called, it is that rule.

    With `dilation` d, distances count in steps of d and positions that are no multiple of d away are not seen.
    """

    back: int  # steps
    ahead: int  # steps; 0 where causal
    own: bool = True  # whether a query sees its own key beside others
    dilation: int = 1
    global_tokens: int = 0  # the first tokens, seen by every query and seeing every key

    def near(self, distance: Tensor) -> Tensor:
        """Whether keys at `distance` (query minus key) lie in the window, bool."""
        if self.dilation == 1:
            return (distance >= -self.ahead) & (distance <= self.back)
        steps = distance // self.dilation
        return (distance % self.dilation == 0) & (steps >= -self.ahead) & (steps <= self.back)

    def packed(self) -> list[int]:
        """The plain data that an operator of PyTorch can be given in its place."""
        return [int(number) for number in astuple(self)]

    @classmethod
    def unpacked(cls, numbers: list[int]) -> Local:
        """The inverse of `packed`."""
        back, ahead, own, dilation, global_tokens = numbers
        return cls(back=back, ahead=ahead, own=bool(own), dilation=dilation, global_tokens=global_tokens)

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether the queries at positions `query` see the keys at positions `key`, bool."""
        distance = query - key
        seen = self.near(distance) | (key < self.global_tokens) | (query < self.global_tokens)
        if self.ahead == 0:
            seen = seen & (distance >= 0)
        return seen if self.own else seen & (distance != 0)

    def blocks(self, queries: Extent, keys: Extent) -> Blocks:
        """The rule, of blocks of queries and of keys (`ablab.model.attention.flex.masks.Rule`)."""
        least, most, d = queries.first - keys.last, queries.last - keys.first, self.dilation
        some = most.clamp(max=self.back * d) // d * d >= least.clamp(min=-self.ahead * d)
        every = (least >= -self.ahead) & (most <= self.back) & (d == 1)
        some = some | (keys.first < self.global_tokens) | (queries.first < self.global_tokens)
        every = every | (keys.last < self.global_tokens) | (queries.last < self.global_tokens)
        if self.ahead == 0:
            some, every = some & (most >= 0), every & (least >= 0)
        return Blocks(some, every if self.own else every & ((least > 0) | (most < 0)))


@dataclass(frozen=True, kw_only=True)
class Spans:
    """A soft edge of the local keys; see `ablab.model.attention.band.Edge`."""

    tokens: Tensor  # (H,) or (B, H, T)
    ramp: float


def local_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    local: Local,
    scale: Scale,
    padding: Tensor | None,
    spans: Spans | None,
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over the local keys.

    Args:
        q: (B, T, H, D), as k; v is (B, T, H, Dv).
        padding: (B, T) bool, true where there is no token.
        slopes: (H,), by which scores fall per token of distance.

    Returns:
        (B, T, H, Dv) and the log-sum-exp (B, T, H).
    """
    out, lse = v.new_empty(v.shape), q.new_empty(q.shape[:3])
    for b in range(len(q)):
        _forward(q[b], k[b], v[b], out[b], lse[b], _around(b, q, local, scale, padding, spans, slopes))
    return out, lse


def local_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    local: Local,
    scale: Scale,
    padding: Tensor | None,
    spans: Spans | None,
    slopes: Tensor | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
    """Gradients of q, k and v, and of the spans; `out` and `lse` may be those of more keys than the local ones."""
    gradients = torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v)
    grad_spans = torch.empty_like(lse)
    for b in range(len(q)):
        around = _around(b, q, local, scale, padding, spans, slopes)
        given = (grad[b], q[b], k[b], v[b], out[b], lse[b])
        _backward(*given, *(x[b] for x in gradients), around=around)
        if around.edge is not None:
            band = around.band(q.shape[1])
            span_gradient(
                *given,
                grad_spans[b],
                band=band,
                scale=scale,
                padding=around.padding,
                edge=around.edge,
                slopes=around.step_slopes,
            )
    if spans is None:
        return gradients, None
    of_queries = grad_spans.transpose(1, 2)  # (B, H, T)
    summed = of_queries.sum((0, 2)) if spans.tokens.dim() == 1 else of_queries.contiguous()
    return gradients, summed.to(spans.tokens.dtype)


def local_scores(length: int, local: Local) -> int:
    """Count the scores that one head computes for one sequence, hidden ones included."""
    each = -(-length // local.dilation)
    scores = local.dilation * band_scores(each, min(local.back, each - 1), min(local.ahead, each - 1))
    g = min(local.global_tokens, length)
    return scores + length * g + (g * (length - g) if local.ahead else 0)  # what sees them, and what they see


def _around(
    b: int,
    q: Tensor,
    local: Local,
    scale: Scale,
    padding: Tensor | None,
    spans: Spans | None,
    slopes: Tensor | None,
) -> _Around:
    """For sequence `b`."""
    floor, edge = None, None
    if padding is not None and padding[b].any():
        floor = torch.where(padding[b], FLOOR, 0.0).to(q.dtype)
    if spans is not None:
        tokens = spans.tokens if spans.tokens.dim() == 1 else spans.tokens[b].t()
        edge = Edge(spans=tokens.to(q.dtype).contiguous(), ramp=spans.ramp)
    return _Around(local, scale, floor, edge, slopes)


@dataclass(frozen=True)
class _Around:
    """The settings of local attention beside its tensors, for one sequence."""

    local: Local
    scale: Scale
    padding: Tensor | None
    edge: Edge | None
    slopes: Tensor | None  # (H,)

    @property
    def step_slopes(self) -> Tensor | None:
        """By which scores fall per step of the window."""
        return None if self.slopes is None else self.slopes * self.local.dilation

    def beside(self, where: slice) -> dict[str, Any]:
        """Further settings of the band: those of the positions `where`."""
        padding = None if self.padding is None else self.padding[where]
        return {"padding": padding, "edge": self.edge, "slopes": self.step_slopes}

    def band(self, length: int) -> Band:
        """No wider than the sequence is long and, with a soft edge, than the largest span reaches."""
        widest = (length - 1) // self.local.dilation
        if self.edge is not None:
            farthest = float(self.edge.spans.max()) + self.edge.ramp
            if math.isfinite(farthest):  # a diverged model is to show in the loss, not here
                widest = min(widest, math.ceil(farthest))
        return Band(back=min(self.local.back, widest), ahead=min(self.local.ahead, widest), own=self.local.own)

    def phases(self, length: int) -> list[slice]:
        """Positions that may see each other through the window: all, or every `dilation`-th."""
        return [slice(phase, None, self.local.dilation) for phase in range(min(self.local.dilation, length))]

    def rectangles(self, length: int, dtype: torch.dtype, device: torch.device) -> list[tuple[slice, slice, Tensor]]:
        """Queries and keys that meet because one of them is global, and a bias that hides what the band has seen."""
        causal, g = self.local.ahead == 0, min(self.local.global_tokens, length)
        areas = [(slice(0, length), slice(0, g))] if g else []
        if 0 < g < length and not causal:
            areas.append((slice(0, g), slice(g, length)))
        position = torch.arange(length, device=device)
        found = []
        for rows, columns in areas:
            distance = position[rows, None] - position[columns]
            hidden = self.local.near(distance)
            if causal:
                hidden |= distance < 0
            bias = torch.where(hidden, FLOOR, 0.0).to(dtype)
            if self.slopes is not None:
                bias = (bias - self.slopes[:, None, None] * distance.abs()).unsqueeze(0)
            found.append((rows, columns, bias if self.padding is None else bias + self.padding[columns]))
        return found


def _forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, around: _Around) -> None:
    """One sequence, (T, H, D); `out` and `lse` are written."""
    T, band = len(q), around.band(len(q))
    for each in around.phases(T):
        parts = (x[each] for x in (q, k, v, out, lse))
        band_forward(*parts, band=band, scale=around.scale, **around.beside(each))
    for rows, columns, bias in around.rectangles(T, q.dtype, q.device):
        found = _dense(attend, q[rows], k[columns], v[columns], bias=bias, scale=around.scale)
        out[rows], lse[rows] = merge(out[rows], lse[rows], *found)


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, *, around: _Around,
) -> None:  # fmt: skip
    T, band = len(q), around.band(len(q))
    for each in around.phases(T):
        parts = (x[each] for x in (grad, q, k, v, out, lse, grad_q, grad_k, grad_v))
        band_backward(*parts, band=band, scale=around.scale, **around.beside(each))
    for rows, columns, bias in around.rectangles(T, q.dtype, q.device):
        given = (grad[rows], q[rows], k[columns], v[columns], out[rows], lse[rows])
        dq, dk, dv = _dense(attend_backward, *given, bias=bias, scale=around.scale)
        grad_q[rows] += dq
        grad_k[columns] += dk
        grad_v[columns] += dv


def _dense(attention: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, bias: Tensor, scale: Scale) -> list[Tensor]:
    """A pass of the kernel over one sequence, (T, H, ...) in and out."""
    found = attention(*(x.transpose(0, 1).unsqueeze(0) for x in tensors), bias, scale)
    return [x.squeeze(0).transpose(0, 1) for x in found]
