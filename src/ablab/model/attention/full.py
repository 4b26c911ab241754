"""Full attention: every query sees every key (up to and including its own position, where causal)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ablab.model.attention.base import AttentionCore, by_query, self_only_if_alone, tilt
from ablab.model.attention.by_position import PositionalCore
from ablab.model.attention.dense import DENSE_BELOW, dense_attention, softmax_attention
from ablab.model.attention.flex.call import wanted
from ablab.model.attention.flex.masks import CAUSAL, EVERYTHING
from ablab.model.attention.flex.rule import Scoring, rule_attention


class FullAttention(PositionalCore):
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, section 3.2.1), by PyTorch's fused kernel.

    Time grows as T^2. Memory grows as T, except that it takes T^2 for the mask of a padded causal sequence, for that of
    shared queries and keys, for a bias by distance, and on a CPU for dropping weights. With `softcap` the
    scores are written out, for slices of queries one after the other, and again in the backward pass. On CUDA all of
    this but shared queries and keys and dropped weights goes by FlexAttention, in memory that grows as T.
    """

    by_head = True
    drops_weights = True
    takes_slopes = True

    def sees(self, query: Tensor, key: Tensor) -> Tensor | None:
        return None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        narrower = q.shape[-1] - v.shape[-1]
        if narrower > 0 and q.device.type == "cpu" and may_fuse():
            # The CPU's fused kernel wants values as wide as keys; without it, memory would grow as T^2.
            return self._attend(q, k, pad(v, (0, narrower)), key_padding_mask)[..., :-narrower]
        return self._attend(q, k, v, key_padding_mask)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training and self.dropout_on == "weights" else 0.0
        return full_attention(self, q, k, v, key_padding_mask, dropout)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        return all_visited(self, positions, k.shape[2])


def may_fuse() -> bool:
    """Whether the fused kernel is allowed, which it is not where FLOPs are counted; a graph cannot ask."""
    return torch.compiler.is_compiling() or torch.backends.cuda.flash_sdp_enabled()  # of every device


def full_attention(
    core: AttentionCore, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Full attention with the settings of any core: causal or not, its slopes, sinks and bound of scores.

    Args:
        dropout: probability, on the weights.
    """
    by_flex = wanted(q) and not dropout and not core.share_qk and q.shape[2] >= DENSE_BELOW
    plain = key_padding_mask is None and not core.share_qk and core.slopes is None
    if plain and not (by_flex and core.softcap is not None):  # PyTorch's fused kernels know no cap
        return softmax_attention(
            q, k, v, causal=core.causal, dropout=dropout, sinks=by_query(core.sinks), softcap=core.softcap
        )
    if by_flex:
        return rule_attention(
            q, k, v, CAUSAL if core.causal else EVERYTHING, key_padding_mask=key_padding_mask, sinks=core.sinks,
            scoring=Scoring(softcap=core.softcap, slopes=core.slopes),
        )  # fmt: skip
    positions = torch.arange(q.shape[2], device=q.device)
    mask = _allowed(core, positions, k.shape[2])
    if core.share_qk:
        mask = mask & (positions[:, None] != positions)
    bias = None if core.slopes is None else tilt(core.slopes, positions, k.shape[2], q.dtype)
    return dense_attention(
        q, k, v, mask, key_padding_mask,
        own_if_alone=core.share_qk, dropout=dropout, bias=bias, sinks=core.sinks, softcap=core.softcap,
    )  # fmt: skip


def all_visited(core: AttentionCore, positions: Tensor, length: int) -> Tensor:
    """What full attention with the settings of a core visits: (S, T), or (1, T) where every query sees the same."""
    mask = _allowed(core, positions, length)
    return self_only_if_alone(mask, positions) if core.share_qk else mask


def _allowed(core: AttentionCore, positions: Tensor, length: int) -> Tensor:
    keys = torch.arange(length, device=positions.device)
    return keys <= positions[:, None] if core.causal else torch.ones_like(keys, dtype=torch.bool)[None]
