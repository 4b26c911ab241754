"""Local and hashed attention as one operator of PyTorch, `ablab::sparse_attention`, with an exact backward pass.

An operator of its own, since `torch.compile` neither breaks the graph at it nor looks into it, and since its backward
pass needs only queries, keys, values, the merged output and the log-sum-exp; what was sorted is sorted again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ablab.model.attention.buckets import Buckets
from ablab.model.attention.hashed import hashed_backward, hashed_forward, hashed_scores
from ablab.model.attention.kernel import Scale, merge, without_autocast, working_dtype
from ablab.model.attention.local import Local, Spans, local_backward, local_forward, local_scores
from ablab.model.attention.rest import Rest

_Shape = torch.Size


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    local: Local | None = None,
    spans: Spans | None = None,
    buckets: Buckets | None = None,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
    key_padding_mask: Tensor | None = None,
    own_if_alone: bool = False,
) -> Tensor:
    """One softmax over all keys that `local` and `buckets` bring, which must be different ones.

    Args:
        q: (B, H, T, D), as k; v is (B, H, T, Dv). Any strides; (B, T, H, D) in memory costs no copy.
        slopes: (H,); a score falls by so much per token of distance. Not differentiated.
        sinks: (H,), a logit in each softmax that has no value.
        softcap: bounds the scores before slopes are taken from them.
        key_padding_mask: (B, T) bool, true where there is no token.
        own_if_alone: a query that sees nothing sees its own key, unless that is padded.

    Returns:
        (B, H, T, Dv), zero where a query sees nothing.
    """
    apart = None if buckets is None or buckets.keys is None else _small(buckets.keys)
    out: Tensor
    out, _ = torch.ops.ablab.sparse_attention(
        q,
        k,
        v,
        key_padding_mask,
        None if spans is None else spans.tokens,
        None if buckets is None else _small(buckets.queries),
        apart,
        None if buckets is None else buckets.beyond,
        slopes,
        sinks,
        [] if local is None else local.packed(),
        [] if buckets is None else [buckets.count, buckets.back, buckets.ahead],
        0.0 if spans is None else float(spans.ramp),
        softcap,
        own_if_alone,
    )
    return out


def _small(numbers: Tensor) -> Tensor:
    return numbers.int()  # they are kept for the backward pass


OPERATOR = "ablab::sparse_attention"


@torch.library.custom_op(OPERATOR, mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    padding: Tensor | None,
    spans: Tensor | None,
    q_buckets: Tensor | None,
    k_buckets: Tensor | None,
    beyond: Tensor | None,
    slopes: Tensor | None,
    sinks: Tensor | None,
    local: list[int],
    bucket: list[int],
    ramp: float,
    softcap: float | None,
    own_if_alone: bool,
) -> tuple[Tensor, Tensor]:
    """The output (B, H, T, Dv), and the log-sum-exp (B, H, T), infinite where a query sees nothing.

    With sinks both are of the sink, too, so that the backward pass of the keys needs to know nothing of it.
    """
    with without_autocast(q.device):
        queries, keys, values = (_rows(x) for x in (q, k, v))
        scale = Scale(1 / math.sqrt(q.shape[-1]), softcap)
        slopes = None if slopes is None else slopes.to(queries.dtype)
        found = []
        if local:
            around = Local.unpacked(local), scale, padding, _spans(spans, ramp), slopes
            found.append(local_forward(queries, keys, values, *around))
        if q_buckets is not None:
            buckets = _buckets(q_buckets, k_buckets, beyond, bucket)
            found.append(hashed_forward(queries, keys, values, buckets, scale, slopes))
        out, lse = found[0]
        for other in found[1:]:
            out, lse = merge(out, lse, *other)
        everybody = bool(local) and bool(local[2]) and padding is None  # sees at least itself
        out, lse = Rest(queries, keys, values, padding, sinks, scale, own_if_alone).finish(
            out, lse, everybody=everybody
        )
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
    slopes: Tensor | None,
    sinks: Tensor | None,
    local: list[int],
    bucket: list[int],
    ramp: float,
    softcap: float | None,
    own_if_alone: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, of the spans and of the sinks (empty without them)."""
    with without_autocast(q.device):
        grads, queries, keys, values, outs = (_rows(x) for x in (grad, q, k, v, out))
        sums = _rows(lse)
        scale = Scale(1 / math.sqrt(q.shape[-1]), softcap)
        slopes = None if slopes is None else slopes.to(queries.dtype)
        found = []
        grad_spans = sums.new_empty(0)
        if local:
            given = (grads, queries, keys, values, outs, sums)
            around = Local.unpacked(local), scale, padding, _spans(spans, ramp), slopes
            gradients, of_spans = local_backward(*given, *around)
            found.append(gradients)
            grad_spans = grad_spans if of_spans is None else of_spans
        if q_buckets is not None:
            buckets = _buckets(q_buckets, k_buckets, beyond, bucket)
            found.append(hashed_backward(grads, queries, keys, values, outs, sums, buckets, scale, slopes))
        grad_q, grad_k, grad_v = found[0]
        for others in found[1:]:
            for total, other in zip(found[0], others, strict=True):
                total += other
        rest = Rest(queries, keys, values, padding, sinks, scale, own_if_alone)
        grad_sinks = rest.backward(grads, outs, sums, found[0])
    grad_q, grad_k, grad_v = (x.to(q.dtype).transpose(1, 2) for x in (grad_q, grad_k, grad_v))
    return grad_q, grad_k, grad_v, grad_spans, grad_sinks


@_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, padding: Tensor | None,
    spans: Tensor | None, q_buckets: object, k_buckets: object, beyond: object, slopes: object, sinks: Tensor | None,
    *others: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    def like(x: Tensor) -> Tensor:
        return x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)

    of_spans = lse.new_empty(0) if spans is None else spans.new_empty(spans.shape)
    return like(q), like(k), like(v), of_spans, lse.new_empty(0 if sinks is None else len(sinks))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, local, bucket, ramp, softcap, own_if_alone = inputs
    q, k, v, *given = tensors
    ctx.save_for_backward(q, k, v, *output, *given)
    ctx.settings = (local, bucket, ramp, softcap, own_if_alone)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    spans, sinks = ctx.saved_tensors[6], ctx.saved_tensors[11]
    grad_q, grad_k, grad_v, grad_spans, grad_sinks = torch.ops.ablab.sparse_attention_backward(
        grad, *ctx.saved_tensors, *ctx.settings
    )
    of_spans = None if spans is None else grad_spans
    of_sinks = None if sinks is None else grad_sinks.to(sinks.dtype)
    return grad_q, grad_k, grad_v, None, of_spans, *[None] * 4, of_sinks, *[None] * 5


_forward.register_autograd(_differentiate, setup_context=_save)


def _rows(x: Tensor) -> Tensor:
    """(B, H, T, ...) -> (B, T, H, ...), contiguous, in the dtype to compute in."""
    return x.transpose(1, 2).to(working_dtype(x)).contiguous()


def _spans(tokens: Tensor | None, ramp: float) -> Spans | None:
    return None if tokens is None else Spans(tokens=tokens, ramp=ramp)


def _buckets(queries: Tensor, keys: Tensor | None, beyond: Tensor | None, sizes: list[int]) -> Buckets:
    count, back, ahead = sizes
    return Buckets(queries=queries, keys=keys, count=count, back=back, ahead=ahead, beyond=beyond)


def _scores(q: _Shape, q_buckets: _Shape | None, k_buckets: _Shape | None, local: list[int], bucket: list[int]) -> int:
    """Count the scores that are computed, hidden ones included, as PyTorch counts for full attention."""
    B, H, T, _ = q
    count = 0
    if local:
        count += local_scores(T, Local.unpacked(local))
    if q_buckets is not None:
        _, back, ahead = bucket
        count += hashed_scores(q_buckets[0] * T, back, ahead, together=k_buckets is None)
    return B * H * count


@register_flop_formula(torch.ops.ablab.sparse_attention)
def _forward_flops(
    q: _Shape, k: _Shape, v: _Shape, padding: object, spans: object, q_buckets: _Shape | None,
    k_buckets: _Shape | None, beyond: object, slopes: object, sinks: object, local: list[int], bucket: list[int],
    *others: object, **kwargs: object,
) -> int:  # fmt: skip
    return _scores(q, q_buckets, k_buckets, local, bucket) * 2 * (q[-1] + v[-1])


@register_flop_formula(torch.ops.ablab.sparse_attention_backward)
def _backward_flops(
    grad: _Shape, q: _Shape, k: _Shape, v: _Shape, out: _Shape, lse: _Shape, padding: object, spans: object,
    q_buckets: _Shape | None, k_buckets: _Shape | None, beyond: object, slopes: object, sinks: object,
    local: list[int], bucket: list[int], *others: object, **kwargs: object,
) -> int:  # fmt: skip
    # Gradients of weights, values, queries and keys. Scores, computed again to save memory, count once, as everywhere.
    return _scores(q, q_buckets, k_buckets, local, bucket) * 2 * (2 * q[-1] + 2 * v[-1])
