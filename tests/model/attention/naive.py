"""Attention as its definitions read: dense, slow, and the reference that the tests hold every other core to.

Masks say which keys (last dimension) a query (the one before) sees, weights what multiplies exp(score). Both are
broadcastable to (B, H, T, T). i stands for the position of a query and j for that of a key.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Attention over the keys that `mask` allows, key j counting with weight_ij * exp(q_i k_j / sqrt(D)).

    Args:
        q: (B, H, T, D).
        k: (B, K, T, D) with K dividing H; each head of keys and values serves H / K neighbouring heads of queries.
        v: (B, K, T, Dv).
        mask: bool.
        weight: at least 0, and no key of weight 0 is seen; None for 1 throughout.

    Returns:
        (B, H, T, Dv), zero where a query sees nothing.
    """
    k, v = _for_every_query_head(k, q), _for_every_query_head(v, q)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if weight is not None:
        mask = mask & (weight > 0)
        scores = scores + weight.where(mask, 1).log()
    nothing = ~mask.any(-1, keepdim=True)
    # A row of nothing but -inf has no softmax and no gradient: let it have one of zeros, and take that out again.
    weights = scores.masked_fill(~mask, -math.inf).masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)
    return weights @ v


def without_padding(mask: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """Nobody sees a key that is padded: key_padding_mask is (B, T), true where there is no token."""
    return mask if key_padding_mask is None else mask & ~key_padding_mask[:, None, None, :]


def without_own(mask: Tensor) -> Tensor:
    """Nobody sees its own key."""
    return mask & ~torch.eye(mask.shape[-1], dtype=torch.bool)


def own_if_alone(mask: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """A query that sees nothing sees its own key, unless that is padded."""
    own = torch.eye(mask.shape[-1], dtype=torch.bool)
    return mask | without_padding(own & ~mask.any(-1, keepdim=True), key_padding_mask)


def full_mask(length: int, causal: bool) -> Tensor:
    """(T, T): all keys, or those up to and including the query's own."""
    i, j = _positions(length)
    return j <= i if causal else (j == j) & (i == i)


def window_mask(length: int, window: int, causal: bool, dilation: int = 1, global_tokens: int = 0) -> Tensor:
    """(T, T): near keys, and global ones.

    Near are j = i, i - d, ..., i - (window - 1) d, or not causal those at distance 0, d, ..., window d on either side,
    with d the dilation. The first `global_tokens` tokens are seen by all and see all (earlier ones only where causal).
    """
    i, j = _positions(length)
    steps, between = (i - j).abs() // dilation, (i - j) % dilation
    near = (between == 0) & (steps < window if causal else steps <= window)
    return (near | (i < global_tokens) | (j < global_tokens)) & full_mask(length, causal)


def lsh_mask(
    q_buckets: Tensor, k_buckets: Tensor, bucket_size: int, causal: bool, key_padding_mask: Tensor | None = None
) -> Tensor:
    """What hashing brings each query: (B, H, T, T), without anybody's own key.

    In each round, of the keys in the query's bucket: the `bucket_size` last ones before it where causal, and half as
    many (at least one) of the nearest on either side where not.

    Args:
        q_buckets: (B, H, rounds, T).
        k_buckets: (B, K, rounds, T), K dividing H.
        key_padding_mask: (B, T); padded keys are in no bucket.
    """
    i, j = _positions(q_buckets.shape[-1])
    same = _for_every_query_head(k_buckets, q_buckets).unsqueeze(-2) == q_buckets.unsqueeze(-1)  # (B, H, rounds, T, T)
    if key_padding_mask is not None:
        same = same & ~key_padding_mask[:, None, None, None, :]
    before, after = same & (j < i), same & (j > i)
    # A key is the n-th last before the query if n of its kind lie from it up to the query; likewise behind.
    nth_before, nth_after = before.flip(-1).cumsum(-1).flip(-1), after.cumsum(-1)
    if causal:
        seen = before & (nth_before <= bucket_size)
    else:
        half = max(bucket_size // 2, 1)
        seen = (before & (nth_before <= half)) | (after & (nth_after <= half))
    return seen.any(2)


def span_weight(length: int, spans: Tensor, ramp: float) -> Tensor:
    """clamp((ramp + span - distance) / ramp, 0, 1) for spans in tokens, (B or 1, H, T or 1) -> (B or 1, H, T, T)."""
    i, j = _positions(length)
    return ((ramp + spans.unsqueeze(-1) - (i - j).abs()) / ramp).clamp(0, 1)


def dynamic_weight(
    length: int,
    window: int,
    causal: bool,
    *,
    spans: Tensor | None = None,
    ramp: float = 1.0,
    hashed: Tensor | None = None,
) -> Tensor:
    """The weights of a window that adapts: in size where there are `spans`, in position where there are `hashed` keys.

    Local keys are those of `window_mask`, with `span_weight` if there are spans. Hashed keys count fully at distances
    that local ones cannot have: beyond the window or, if nearer, where the span's soft edge has come down to 0.

    Args:
        spans: in tokens, (B or 1, H, T or 1).
        ramp: width of the soft edge, in tokens.
        hashed: what `lsh_mask` gives, (B, H, T, T).
    """
    i, j = _positions(length)
    distance = (i - j).abs()
    local = window_mask(length, window, causal)
    weight = local.to(torch.float64 if spans is None else spans.dtype)
    reach = torch.tensor(window if causal else window + 1)
    if spans is not None:
        weight = weight * span_weight(length, spans, ramp)
        reach = (ramp + spans.detach()).ceil().clamp(max=reach.item()).unsqueeze(-1)
    if hashed is not None:
        weight = weight.where(~(hashed & (distance >= reach)), 1)
    return weight


def _positions(length: int) -> tuple[Tensor, Tensor]:
    """i (T, 1) and j (1, T)."""
    positions = torch.arange(length)
    return positions[:, None], positions[None, :]


def _for_every_query_head(x: Tensor, like: Tensor) -> Tensor:
    """(B, K, ...) -> (B, H, ...)."""
    return x.repeat_interleave(like.shape[1] // x.shape[1], dim=1)
