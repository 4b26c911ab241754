"""Attention as its definitions read: dense, slow, and the reference that the tests hold every other core to."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention over the keys that `mask` allows.

    q, k, v are (B, H, T, D); mask is bool, broadcastable to (B, H, T, T), with at least one key for every query.
    """
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights: Tensor = scores.masked_fill(~mask, -math.inf).softmax(-1) @ v
    return weights


def window_mask(length: int, window: int, causal: bool) -> Tensor:
    """(T, T): the `window` keys up to and including the query's own, or `window` on either side of it as well."""
    mask = torch.zeros(length, length, dtype=torch.bool)
    for query in range(length):
        for key in range(length):
            if causal:
                mask[query, key] = query - window < key <= query
            else:
                mask[query, key] = abs(query - key) <= window
    return mask


def lsh_mask(q_buckets: Tensor, k_buckets: Tensor, bucket_size: int, causal: bool) -> Tensor:
    """The rule of `LSHAttention`, read aloud: q_buckets and k_buckets (B, H, rounds, T) -> mask (B, H, T, T)."""
    B, H, R, T = q_buckets.shape
    mask = torch.zeros(B, H, T, T, dtype=torch.bool)
    for b in range(B):
        for h in range(H):
            for r in range(R):
                for query in range(T):
                    bucket = q_buckets[b, h, r, query]
                    members = [key for key in range(T) if k_buckets[b, h, r, key] == bucket]
                    reached = sum(key <= query for key in members)
                    chunk = max(reached - 1, 0) // bucket_size
                    for key in members[max(chunk - 1, 0) * bucket_size : (chunk + 1) * bucket_size]:
                        if key != query and (key < query or not causal):
                            mask[b, h, query, key] = True
    alone = ~mask.any(-1, keepdim=True)
    return mask | (alone & torch.eye(T, dtype=torch.bool))
