"""Masked attention, all queries against all keys, and what works through a long sequence slice by slice instead.

For short sequences PyTorch's fused kernel is the cheapest path; slices of long ones stay in the cache or in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ablab.model.attention.base import repeat_heads, scores_of

# Below this many tokens, hiding scores costs less than not computing them.
DENSE_BELOW = 384
GPU_SLICES = 64  # times as much at one time on a GPU as on a CPU


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
) -> Tensor:
    """Attention over the keys that `mask` allows and that are no padding.

    Args:
        q: (B, H, T, D); k (B, K, T, D) and v (B, K, T, Dv) with K dividing H.
        mask: bool, broadcastable to (B, H, T, T).
        key_padding_mask: (B, T) bool, true where there is no token.
        own_if_alone: a query that sees nothing sees its own key, unless that is padded.
        dropout: probability, on the weights.
        bias: added to the scores, broadcastable to (B, H, T, T).

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
    grouped = k.shape[1] != q.shape[1]
    if bias is not None:
        mask = torch.where(mask, bias.to(q.dtype), -math.inf)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, enable_gqa=grouped)


def weighted_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    key_padding_mask: Tensor | None = None,
    *,
    own_if_alone: bool = False,
    slopes: Tensor | None = None,
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
    scores = scores_of(q, k, positions, slopes).to(weights.dtype)
    most = scores.detach().masked_fill(weights == 0, torch.finfo(scores.dtype).min).amax(-1, keepdim=True)
    unnormalised = weights * (scores - most).clamp(max=0).exp()
    total = unnormalised.sum(-1, keepdim=True)
    return (unnormalised / torch.where(total == 0, 1, total)).to(v.dtype) @ repeat_heads(v, q.shape[1])


def at_once(on_cpu: int, device: torch.device) -> int:
    """Return how many elements one call computes: `on_cpu`, chosen for the cache of a CPU, or more.

    A GPU is busy with a call only if it is large, and starting thousands of small ones takes most of the time.
    """
    return on_cpu if device.type == "cpu" else on_cpu * GPU_SLICES


def recomputed(function: Callable[..., Tensor], *args: Any, random: bool = False) -> Tensor:
    """function(*args); where a gradient is wanted, keeps the arguments alone and computes the rest again for it.

    Args:
        random: whether the function draws random numbers, which must come out the same the second time.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    result: Tensor = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=random)
    return result


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
