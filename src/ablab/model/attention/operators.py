"""Local and hashed attention as one operator of PyTorch, `ablab::sparse_attention`, with an exact backward pass.

An operator of its own, since `torch.compile` neither breaks the graph at it nor looks into it, and since its backward
pass needs only queries, keys, values, the merged output and the log-sum-exp; what was sorted is sorted again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ablab.model.attention.band import Band, Edge, band_backward, band_forward, band_scores, span_gradient
from ablab.model.attention.hashed import BLOCK as HASHED_BLOCK
from ablab.model.attention.hashed import Buckets, hashed_backward, hashed_forward
from ablab.model.attention.kernel import FLOOR, NOBODY, attend, attend_backward, without_autocast, working_dtype

_Shape = torch.Size


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

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether the queries at positions `query` see the keys at positions `key`, bool."""
        distance = query - key
        steps = distance // self.dilation
        seen = (distance % self.dilation == 0) & (steps >= -self.ahead) & (steps <= self.back)
        seen = seen | (key < self.global_tokens) | (query < self.global_tokens)
        if self.ahead == 0:
            seen = seen & (distance >= 0)
        return seen if self.own else seen & (distance != 0)


@dataclass(frozen=True, kw_only=True)
class Spans:
    """A soft edge of the local keys; see `ablab.model.attention.band.Edge`."""

    tokens: Tensor  # (H,) or (B, H, T)
    ramp: float


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    local: Local | None = None,
    spans: Spans | None = None,
    buckets: Buckets | None = None,
    key_padding_mask: Tensor | None = None,
    own_if_alone: bool = False,
) -> Tensor:
    """One softmax over all keys that `local` and `buckets` bring, which must be different ones.

    Args:
        q: (B, H, T, D), as k; v is (B, H, T, Dv). Any strides; (B, T, H, D) in memory costs no copy.
        key_padding_mask: (B, T) bool, true where there is no token.
        own_if_alone: a query that sees nothing sees its own key, unless that is padded.

    Returns:
        (B, H, T, Dv), zero where a query sees nothing.
    """
    apart = None if buckets is None or buckets.keys is None else _small(buckets.keys)
    out, _ = torch.ops.ablab.sparse_attention(
        q,
        k,
        v,
        key_padding_mask,
        None if spans is None else spans.tokens,
        None if buckets is None else _small(buckets.queries),
        apart,
        None if buckets is None else buckets.beyond,
        [] if local is None else [local.back, local.ahead, int(local.own), local.dilation, local.global_tokens],
        [] if buckets is None else [buckets.count, buckets.back, buckets.ahead],
        0.0 if spans is None else float(spans.ramp),
        own_if_alone,
    )
    return out


def _small(numbers: Tensor) -> Tensor:
    return numbers.int()  # they are kept for the backward pass


@torch.library.custom_op("ablab::sparse_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    padding: Tensor | None,
    spans: Tensor | None,
    q_buckets: Tensor | None,
    k_buckets: Tensor | None,
    beyond: Tensor | None,
    local: list[int],
    bucket: list[int],
    ramp: float,
    own_if_alone: bool,
) -> tuple[Tensor, Tensor]:
    """The output (B, H, T, Dv), and the log-sum-exp (B, H, T), infinite where a query sees nothing."""
    with without_autocast(q.device):
        queries, keys, values = (_rows(x) for x in (q, k, v))
        scale = 1 / math.sqrt(q.shape[-1])
        found = []
        if local:
            out, lse = values.new_empty(values.shape), queries.new_empty(queries.shape[:3])
            for b in range(len(q)):
                around = _Around(local, scale, _floor(padding, b, queries), _edge(spans, b, ramp, queries))
                _local_forward(queries[b], keys[b], values[b], out[b], lse[b], around)
            found.append((out, lse))
        if q_buckets is not None:
            buckets = _buckets(q_buckets, k_buckets, beyond, bucket)
            found.append(hashed_forward(queries, keys, values, buckets, scale))
        out, lse = found[0]
        for other in found[1:]:
            out, lse = _merge(out, lse, *other)
        everybody = bool(local) and bool(local[2]) and padding is None  # sees at least itself
        if not everybody:
            nobody = lse < NOBODY
            alone = torch.zeros((), dtype=values.dtype, device=values.device)
            if own_if_alone:
                alone = values if padding is None else values.masked_fill(padding[:, :, None, None], 0)
            out = torch.where(nobody.unsqueeze(-1), alone, out)
            lse = lse.masked_fill_(nobody, math.inf)
    return out.to(v.dtype).transpose(1, 2), lse.transpose(1, 2)


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: object) -> tuple[Tensor, Tensor]:
    B, H, T, _ = q.shape
    out = v.new_empty(B, T, H, v.shape[-1]).transpose(1, 2)
    return out, q.new_empty(B, T, H, dtype=working_dtype(q)).transpose(1, 2)


@torch.library.custom_op("ablab::sparse_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    padding: Tensor | None,
    spans: Tensor | None,
    q_buckets: Tensor | None,
    k_buckets: Tensor | None,
    beyond: Tensor | None,
    local: list[int],
    bucket: list[int],
    ramp: float,
    own_if_alone: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and of the spans (empty without spans)."""
    with without_autocast(q.device):
        grads, queries, keys, values, outs = (_rows(x) for x in (grad, q, k, v, out))
        sums = _rows(lse)
        scale = 1 / math.sqrt(q.shape[-1])
        found = []
        grad_spans = None if spans is None else torch.empty_like(sums)
        if local:
            gradients = torch.zeros_like(queries), torch.empty_like(keys), torch.empty_like(values)
            for b in range(len(q)):
                around = _Around(local, scale, _floor(padding, b, queries), _edge(spans, b, ramp, queries))
                given = (grads[b], queries[b], keys[b], values[b], outs[b], sums[b])
                _local_backward(*given, *(x[b] for x in gradients), around=around)
                if around.edge is not None and grad_spans is not None:
                    band = around.band(q.shape[2])
                    span_gradient(
                        *given, grad_spans[b], band=band, scale=scale, padding=around.padding, edge=around.edge
                    )
            found.append(gradients)
        if q_buckets is not None:
            buckets = _buckets(q_buckets, k_buckets, beyond, bucket)
            found.append(hashed_backward(grads, queries, keys, values, outs, sums, buckets, scale))
        grad_q, grad_k, grad_v = found[0]
        for others in found[1:]:
            for total, other in zip(found[0], others, strict=True):
                total += other
        if own_if_alone:
            nobody = sums.isinf()
            if padding is not None:
                nobody &= ~padding[:, :, None]
            grad_v += torch.where(nobody.unsqueeze(-1), grads, 0)
        if spans is None or grad_spans is None:
            grad_spans = sums.new_empty(0)
        else:
            grad_spans = grad_spans.transpose(1, 2)  # (B, H, T)
            grad_spans = (grad_spans.sum((0, 2)) if spans.dim() == 1 else grad_spans).to(spans.dtype)
    grad_q, grad_k, grad_v = (x.to(q.dtype).transpose(1, 2) for x in (grad_q, grad_k, grad_v))
    return grad_q, grad_k, grad_v, grad_spans


@_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, padding: Tensor | None,
    spans: Tensor | None, *others: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    def like(x: Tensor) -> Tensor:
        return x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)

    return like(q), like(k), like(v), q.new_empty(0) if spans is None else torch.empty_like(spans)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, local, bucket, ramp, own_if_alone = inputs
    q, k, v, *given = tensors
    ctx.save_for_backward(q, k, v, *output, *given)
    ctx.settings = (local, bucket, ramp, own_if_alone)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    spans = ctx.saved_tensors[6]
    grad_q, grad_k, grad_v, grad_spans = torch.ops.ablab.sparse_attention_backward(
        grad, *ctx.saved_tensors, *ctx.settings
    )
    return grad_q, grad_k, grad_v, None, None if spans is None else grad_spans, *[None] * 7


_forward.register_autograd(_differentiate, setup_context=_save)


def _rows(x: Tensor) -> Tensor:
    """(B, H, T, ...) -> (B, T, H, ...), contiguous, in the dtype to compute in."""
    return x.transpose(1, 2).to(working_dtype(x)).contiguous()


def _floor(padding: Tensor | None, b: int, like: Tensor) -> Tensor | None:
    if padding is None or not padding[b].any():
        return None
    return torch.where(padding[b], FLOOR, 0.0).to(like.dtype)


def _edge(spans: Tensor | None, b: int, ramp: float, like: Tensor) -> Edge | None:
    if spans is None:
        return None
    spans = (spans if spans.dim() == 1 else spans[b].t()).to(like.dtype)
    return Edge(spans=spans.contiguous(), ramp=ramp)


def _buckets(queries: Tensor, keys: Tensor | None, beyond: Tensor | None, sizes: list[int]) -> Buckets:
    count, back, ahead = sizes
    keys = None if keys is None else keys.long()
    return Buckets(queries=queries.long(), keys=keys, count=count, back=back, ahead=ahead, beyond=beyond)


def _merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """One softmax over the keys of both."""
    total = torch.logaddexp(lse, other_lse)
    share = (other_lse - total).exp_().unsqueeze(-1)
    return torch.lerp(out, other, share), total


@dataclass(frozen=True)
class _Around:
    """What local attention needs to know beside its tensors, for one sequence."""

    local: list[int]
    scale: float
    padding: Tensor | None
    edge: Edge | None

    def band(self, length: int) -> Band:
        """No wider than the sequence is long and, with a soft edge, than the largest span reaches."""
        back, ahead, own, dilation, _ = self.local
        widest = (length - 1) // dilation
        if self.edge is not None:
            widest = min(widest, math.ceil(float(self.edge.spans.max()) + self.edge.ramp))
        return Band(back=min(back, widest), ahead=min(ahead, widest), own=bool(own))

    def phases(self, length: int) -> list[slice]:
        """Positions that may see each other through the window: all, or every `dilation`-th."""
        dilation = self.local[3]
        return [slice(phase, None, dilation) for phase in range(min(dilation, length))]

    def padded(self, where: slice) -> Tensor | None:
        return None if self.padding is None else self.padding[where]

    def rectangles(self, length: int, dtype: torch.dtype, device: torch.device) -> list[tuple[slice, slice, Tensor]]:
        """Queries and keys that meet because one of them is global, and a bias that hides what the band has seen."""
        dilation, global_tokens = self.local[3:]
        causal = self.local[1] == 0
        g, band = min(global_tokens, length), self.band(length)
        areas = [(slice(0, length), slice(0, g))] if g else []
        if 0 < g < length and not causal:
            areas.append((slice(0, g), slice(g, length)))
        position = torch.arange(length, device=device)
        found = []
        for rows, columns in areas:
            distance = position[rows, None] - position[columns]
            steps = torch.div(distance, dilation, rounding_mode="floor")
            hidden = (distance % dilation == 0) & (steps >= -band.ahead) & (steps <= band.back)
            if causal:
                hidden |= distance < 0
            bias = torch.where(hidden, FLOOR, 0.0).to(dtype)
            found.append((rows, columns, bias if self.padding is None else bias + self.padding[columns]))
        return found


def _local_forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, around: _Around) -> None:
    """One sequence, (T, H, D); `out` and `lse` are written."""
    T, band = len(q), around.band(len(q))
    for each in around.phases(T):
        parts = (x[each] for x in (q, k, v, out, lse))
        band_forward(*parts, band=band, scale=around.scale, padding=around.padded(each), edge=around.edge)
    for rows, columns, bias in around.rectangles(T, q.dtype, q.device):
        found = _dense(attend, q[rows], k[columns], v[columns], bias=bias, scale=around.scale)
        out[rows], lse[rows] = _merge(out[rows], lse[rows], *found)


def _local_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, *, around: _Around,
) -> None:  # fmt: skip
    T, band = len(q), around.band(len(q))
    for each in around.phases(T):
        parts = (x[each] for x in (grad, q, k, v, out, lse, grad_q, grad_k, grad_v))
        band_backward(*parts, band=band, scale=around.scale, padding=around.padded(each), edge=around.edge)
    for rows, columns, bias in around.rectangles(T, q.dtype, q.device):
        given = (grad[rows], q[rows], k[columns], v[columns], out[rows], lse[rows])
        dq, dk, dv = _dense(attend_backward, *given, bias=bias, scale=around.scale)
        grad_q[rows] += dq
        grad_k[columns] += dk
        grad_v[columns] += dv


def _dense(attention: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, bias: Tensor, scale: float) -> list[Tensor]:
    """A pass of the kernel over one sequence, (T, H, ...) in and out."""
    found = attention(*(x.transpose(0, 1).unsqueeze(0) for x in tensors), bias, scale)
    return [x.squeeze(0).transpose(0, 1) for x in found]


def _scores(q: _Shape, q_buckets: _Shape | None, k_buckets: _Shape | None, local: list[int], bucket: list[int]) -> int:
    """How many scores are computed, hidden ones included, as PyTorch counts for full attention."""
    B, H, T, _ = q
    count = 0
    if local:
        back, ahead, _own, dilation, global_tokens = local
        length = -(-T // dilation)
        count += dilation * band_scores(length, min(back, length - 1), min(ahead, length - 1))
        count += T * min(global_tokens, T)
    if q_buckets is not None:
        _, back, ahead = bucket
        stretch = back + HASHED_BLOCK + ahead if k_buckets is None else 2 * (back + ahead)
        count += q_buckets[0] * T * stretch
    return B * H * count


@register_flop_formula(torch.ops.ablab.sparse_attention)
def _forward_flops(
    q: _Shape, k: _Shape, v: _Shape, padding: object, spans: object, q_buckets: _Shape | None,
    k_buckets: _Shape | None, beyond: object, local: list[int], bucket: list[int], *others: object, **kwargs: object,
) -> int:  # fmt: skip
    return _scores(q, q_buckets, k_buckets, local, bucket) * 2 * (q[-1] + v[-1])


@register_flop_formula(torch.ops.ablab.sparse_attention_backward)
def _backward_flops(
    grad: _Shape, q: _Shape, k: _Shape, v: _Shape, out: _Shape, lse: _Shape, padding: object, spans: object,
    q_buckets: _Shape | None, k_buckets: _Shape | None, beyond: object, local: list[int], bucket: list[int],
    *others: object, **kwargs: object,
) -> int:  # fmt: skip
    # Scores once more, then the gradients of weights, values, queries and keys.
    return _scores(q, q_buckets, k_buckets, local, bucket) * 2 * (3 * q[-1] + 2 * v[-1])
