"""Attention under a rule of positions by PyTorch's FlexAttention: compiled, with blocks that nobody sees left out.

The engine for windows on CUDA. On a CPU it has no backward pass, and `ablab.model.attention.band` is used instead; the
same tests hold both to the same definition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

# (query position, key position) -> whether the query sees the key. Hashable, and equal where it means the same.
Rule = Callable[[Tensor, Tensor], Tensor]


def flex_rule_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: Rule,
    key_padding_mask: Tensor | None = None,
    *,
    own_if_alone: bool = False,
    attention: Callable[..., Any] | None = None,
) -> Tensor:
    """Attention over the keys that `rule` allows and that are no padding.

    Args:
        q: (B, H, T, D); k (B, K, T, D) and v (B, K, T, Dv) with K dividing H.
        key_padding_mask: (B, T) bool, true where there is no token.
        own_if_alone: a query that sees nothing sees its own key, unless that is padded.
        attention: FlexAttention, by default the compiled one.

    Returns:
        (B, H, T, Dv), zero where a query sees nothing.
    """
    T, grouped = q.shape[2], k.shape[1] != q.shape[1]
    mask = _block_mask(rule, T, q.device) if key_padding_mask is None else _padded_mask(rule, key_padding_mask)
    attention = attention or _compiled()
    if not own_if_alone:
        out: Tensor = attention(q, k, v, block_mask=mask, enable_gqa=grouped)
        return out
    out, aside = attention(q, k, v, block_mask=mask, enable_gqa=grouped, return_aux=AuxRequest(lse=True))
    values = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    if key_padding_mask is not None:
        values = values.masked_fill(key_padding_mask[:, None, :, None], 0)
    return torch.where(aside.lse.isneginf().unsqueeze(-1), values, out)


@cache
def _compiled() -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(flex_attention)
    return compiled


@lru_cache(maxsize=32)
def _block_mask(rule: Rule, length: int, device: torch.device) -> BlockMask:
    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return rule(query, key)

    return create_block_mask(sees, None, None, length, length, device=device)


def _padded_mask(rule: Rule, key_padding_mask: Tensor) -> BlockMask:
    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return rule(query, key) & ~key_padding_mask[batch, key]

    B, T = key_padding_mask.shape
    return create_block_mask(sees, B, None, T, T, device=key_padding_mask.device)
