"""The softmax of attention written for whole matrices of scores, and what goes through long sequences slice by slice.

Where it can, PyTorch's fused kernel computes it. Two switches of the axis change the softmax itself, and the fused
kernels know neither:

* A sink is a logit to learn for each head that takes part in the softmax of each of its queries and has no value: what
  it takes goes nowhere (gpt-oss, arXiv 2508.10925, section 2). It is the same as multiplying the output by
  sigmoid(log-sum-exp - sink). The kernels are given it as one more key, which costs no memory and hardly any time.
* A cap bounds each score s by cap tanh(s / cap) (Gemma 2, arXiv 2408.00118, section 2). Such scores are written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ablab.model.attention.base import bounded, by_query, repeat_heads, scores_of, softmax_of

# Below this many tokens, hiding scores costs less than not computing them.
DENSE_BELOW = 384
GPU_SLICES = 64  # times as much at one time on a GPU as on a CPU
SLICE = 2**22  # scores that are written out at one time
UNLIMITED = 2**60  # elements; in PyTorch's integers, with room for a sequence beside it
KEPT = 2**20  # scores that are kept for the backward pass, and not computed again in it
GPU_WIDTHS = 8  # fused kernels on a GPU want sizes of heads to be multiples of it

Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor])


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    sinks: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention of queries to the keys that they see, by PyTorch's fused kernel where it can.

    Args:
        q: (N, H, S, D); k (N, K, T, D) and v (N, K, T, Dv) with K dividing H.
        mask: bool, true where a key is seen, or what is added to the scores; broadcastable to (N, H, S, T).
        causal: a query sees the keys up to its own place, S being T; in place of a mask.
        dropout: probability, on the weights.
        sinks: logits, broadcastable to (N, H, S).
        softcap: bounds the scores, before a mask is added.

    Returns:
        (N, H, S, Dv), zero where a query sees nothing.
    """
    if softcap is not None:
        return _written_out(q, k, v, mask, causal, dropout, sinks, softcap)
    grouped = k.shape[1] != q.shape[1]
    if sinks is None:
        return scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, enable_gqa=grouped
        )
    width = v.shape[-1]
    scale, place = 1 / math.sqrt(q.shape[-1]), 1 if causal else 0
    q, k, v = _with_sink(q, k, v, sinks, scale, causal)
    if mask is not None:
        mask = pad(mask, (1, 0), value=mask.dtype == torch.bool)  # the sink's key comes first, and all see it
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, enable_gqa=grouped, scale=scale
    )
    return out[:, :, place:, :width]


def _with_sink(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values with the sink as the first key, of value zero.

    Another coordinate holds the logit in each query, 1 in the sink's key and 0 in all others. Where causal the sink's
    place has a query as well, which nobody wants, so that the others see what they saw.
    """
    logit = (sinks / scale).to(q.dtype).expand(q.shape[:3]).unsqueeze(-1)
    first = 1 if causal else 0
    more = GPU_WIDTHS if q.device.type == "cuda" else 1
    q = pad(torch.cat([q, logit], -1), (0, more - 1, first, 0))
    sink = k.new_zeros(k.shape[-1] + more)
    sink[k.shape[-1]] = 1
    k = torch.cat([sink.expand(*k.shape[:2], 1, -1), pad(k, (0, more))], 2)
    return q, k, pad(v, (0, max(0, q.shape[-1] - v.shape[-1]), 1, 0))


def _written_out(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float, sinks: Tensor | None,
    softcap: float,
) -> Tensor:  # fmt: skip
    """Slices of queries one after the other, computed again in the backward pass where there are several."""
    (N, H, S, _), T = q.shape, k.shape[2]
    rows = max(1, at_once(SLICE, q.device) // max(1, N * H * T))
    sinks = None if sinks is None else sinks.expand(q.shape[:3])
    if rows >= S:
        return _rows_of(q, k, v, mask, 0 if causal else None, dropout, sinks, softcap)
    parts = []
    for start in range(0, S, rows):
        stop = min(start + rows, S)
        reach = stop if causal else T
        seen = mask if mask is None or mask.shape[-2] == 1 else mask[..., start:stop, :]
        own = None if sinks is None else sinks[:, :, start:stop]
        given = q[:, :, start:stop], k[:, :, :reach], v[:, :, :reach], seen, start if causal else None
        parts.append(recomputed(_rows_of, *given, dropout, own, softcap, random=dropout > 0))
    return torch.cat(parts, 2)


def _rows_of(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, first: int | None, dropout: float, sinks: Tensor | None,
    softcap: float,
) -> Tensor:  # fmt: skip
    """`softmax_attention` for a slice of queries, where causal the ones from place `first` on."""
    if first is not None:
        keys = torch.arange(k.shape[2], device=k.device)
        mask = keys <= torch.arange(first, first + q.shape[2], device=k.device)[:, None]
    products = q @ repeat_heads(k, q.shape[1]).transpose(-1, -2)
    scores = bounded(products.to(torch.promote_types(q.dtype, torch.float32)) / math.sqrt(q.shape[-1]), softcap)
    if mask is not None and mask.dtype != torch.bool:
        scores, mask = scores + mask, None
    weights = drop(softmax_of(scores, sinks, mask), dropout)
    return weights.to(v.dtype) @ repeat_heads(v, q.shape[1])


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    key_padding_mask: Tensor | None = None,
    *,
    own_if_alone: bool = False,
    dropout: float = 0.0,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention over the keys that `mask` allows and that are no padding.

    Args:
        q: (B, H, T, D); k (B, K, T, D) and v (B, K, T, Dv) with K dividing H.
        mask: bool, broadcastable to (B, H, T, T).
        key_padding_mask: (B, T) bool, true where there is no token.
        own_if_alone: a query that sees nothing sees its own key, unless that is padded.
        dropout: probability, on the weights.
        bias: added to the scores, broadcastable to (B, H, T, T).
        sinks: (H,), as `softcap` of `softmax_attention`.

    Returns:
        (B, H, T, Dv), zero where a query sees nothing.
    """
    if key_padding_mask is not None:
        mask = mask & ~key_padding_mask[:, None, None, :]
    if own_if_alone:
        own = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
        if key_padding_mask is not None:
            own = own & ~key_padding_mask[:, None, None, :]
        mask = mask | (own & ~mask.any(-1, keepdim=True))
    if bias is not None:
        mask = torch.where(mask, bias.to(q.dtype), -math.inf)
    return softmax_attention(q, k, v, mask=mask, dropout=dropout, sinks=by_query(sinks), softcap=softcap)


def weighted_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    key_padding_mask: Tensor | None = None,
    *,
    own_if_alone: bool = False,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention where a key counts with `weights` (broadcastable to (B, H, T, T), at least 0) times exp(score).

    Differentiable in the weights. The rest is as in `dense_attention`, except that with `own_if_alone` a query's own
    key counts only where nothing else does.
    """
    if key_padding_mask is not None:
        weights = weights.masked_fill(key_padding_mask[:, None, None, :], 0)
    if own_if_alone:
        own = torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
        others = weights.masked_fill(own, 0)
        if key_padding_mask is not None:
            own = own & ~key_padding_mask[:, None, None, :]
        weights = torch.where(others.any(-1, keepdim=True), others, own.to(others.dtype))
    positions = torch.arange(q.shape[2], device=q.device)
    scores = scores_of(q, k, positions, slopes, softcap).to(weights.dtype)
    most = scores.detach().masked_fill(weights == 0, torch.finfo(scores.dtype).min).amax(-1, keepdim=True)
    if sinks is not None:
        logits = sinks.to(scores.dtype)[:, None, None]
        most = torch.maximum(most, logits.detach())
    unnormalised = weights * (scores - most).clamp(max=0).exp()
    total = unnormalised.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + (logits - most).exp()
    return (unnormalised / torch.where(total == 0, 1, total)).to(v.dtype) @ repeat_heads(v, q.shape[1])


def at_once(on_cpu: int, device: torch.device) -> int:
    """Return how many elements one call computes: `on_cpu`, chosen for the cache of a CPU, or more.

    A GPU is busy with a call only if it is large, and starting thousands of small ones takes most of the time.
    """
    return unless_counted(on_cpu if device.type == "cpu" else on_cpu * GPU_SLICES, device)


def unless_counted(limit: int, device: torch.device) -> int:
    """Return the limit of elements that one call computes; none on the meta device, where FLOPs are counted.

    Slices of causal queries leave out keys behind them, and how many slices there are changes with the length: what is
    hidden would count for short sequences alone.
    """
    return UNLIMITED if device.type == "meta" else limit


_ONCE: list[bool] = []  # as many as there are `computed_once` around what is going on


@contextmanager
def computed_once() -> Iterator[None]:
    """Within it `recomputed` keeps everything."""
    _ONCE.append(True)
    try:
        yield
    finally:
        _ONCE.pop()


def recomputed(function: Callable[..., Result], *args: Any, random: bool = False, scores: int | None = None) -> Result:
    """function(*args); where a gradient is wanted, keeps the arguments alone and computes the rest again for it.

    Within `computed_once`, where FLOPs are counted, nothing is: what is computed twice to save memory counts once.

    Parameters must be among the arguments: by the time of the backward pass a module may have others in their place, as
    after `torch.func.functional_call`.

    Args:
        random: whether the function draws random numbers, which must come out the same the second time.
        scores: how many there are in all slices. Where they are few everything is kept. None: they are many.
    """
    few = scores is not None and scores <= KEPT
    if few or _ONCE or not torch.is_grad_enabled():
        return function(*args)
    return cast(Result, checkpoint(function, *args, use_reentrant=False, preserve_rng_state=random))


def highest(scores: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Mark where the `count` highest scores of each row are among those allowed; all of these, where they are fewer.

    Of equal scores the later place is taken, so that the choice is a function of the scores alone.

    Args:
        scores: (..., S, N).
        allowed: bool, broadcastable to the same shape.
        count: at least 1.

    Returns:
        bool, (..., S, N).
    """
    scores = scores.masked_fill(~allowed, float("-inf"))
    if count >= scores.shape[-1]:
        return allowed.expand(scores.shape)
    least = scores.topk(count).values[..., -1:]
    above, level = scores > least, scores == least
    room = count - above.sum(-1, keepdim=True)
    later = level.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1)  # how many of them stand here or later
    return (above | (level & (later <= room))) & allowed
