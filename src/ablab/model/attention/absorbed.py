"""Latent attention of new tokens in the space of latents, without keys and values of the tokens before them.

A score is q · (W c) = (W^T q) · c, and what a head mixes is W' of the mixed latents: the projections up from latents c
are absorbed into queries and outputs (DeepSeek-V2, arXiv 2405.04434, section 2.1.2). A token then costs what reading
the latents costs, which are fewer numbers than keys and values, though each is multiplied more often.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ablab.model.attention.base import AttentionCore, bounded, by_query, softmax_of
from ablab.model.attention.cache import LayerCache, Slots, Step
from ablab.model.attention.full import may_fuse


class LatentCache(LayerCache):
    """Of each token its latent, and behind it the rotated key that all heads share.

    Args:
        rank, rope_size: numbers of the two.
        like: a tensor of the dtype and on the device.
    """

    def __init__(self, batch: int, slots: int, *, rank: int, rope_size: int, like: Tensor) -> None:
        self.latents = Slots(batch, 1, slots, rank + rope_size, like=like)

    def extend(self, latent: Tensor, rotated: Tensor, step: Step) -> Tensor:
        """Take in those of new tokens, (B, S, rank) and (B, S, rope_size); all that there are, (B, L, both)."""
        self.latents.write(torch.cat([latent, rotated], -1).unsqueeze(1), step)
        return self.latents.tensor[:, 0, : step.total]


def absorbed_attention(
    core: AttentionCore,
    q: Tensor,
    kept: Tensor,
    seen: Tensor | None,
    *,
    rank: int,
    shift: Tensor | None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The softmax of a core, with its sinks and bound, over latents that serve all heads as keys and as values.

    The heads are queries of one head to the fused kernel, which reads each latent once for all of them.

    Args:
        q: (B, H, S, rank + rope_size), scaled.
        kept: (B, L, rank + rope_size).
        seen: bool, (B or 1, 1, S or 1, L); None: everything is seen.
        rank: the leading coordinates of what is kept are mixed.
        shift: (B, H, S), what all scores of a query have in addition, where sinks or a bound tell it from nothing.
        bias: (B or 1, H, S, L), added to the scores behind the bound, as that by distance is.

    Returns:
        Mixed latents (B, H, S, rank), and the sum of the weights (B, H, S, 1); None: they sum to 1.
    """
    heads = q.shape[1:3]
    if core.sinks is None and core.softcap is None:
        if bias is not None:
            seen = bias if seen is None else torch.where(seen, bias, -math.inf)
        if seen is not None and seen.shape[1:3] != (1, 1):
            seen = seen.expand(-1, *heads, -1).flatten(1, 2).unsqueeze(1)
        keys = values = kept.unsqueeze(1)
        if kept.device.type == "meta" or not may_fuse():  # fused kernels want values as wide as keys, a count does not
            values = values[..., :rank]
        mixed = scaled_dot_product_attention(q.flatten(1, 2).unsqueeze(1), keys, values, attn_mask=seen, scale=1.0)
        return mixed.squeeze(1)[..., :rank].unflatten(1, heads), None
    scores = torch.bmm(q.flatten(1, 2), kept.mT).unflatten(1, heads)
    scores = bounded(scores if shift is None else scores + shift.unsqueeze(-1), core.softcap)
    scores = scores if bias is None else scores + bias
    weights = softmax_of(scores, by_query(core.sinks), seen)
    mixed = torch.bmm(weights.flatten(1, 2), kept[..., :rank]).unflatten(1, heads)
    return mixed, None if core.sinks is None else weights.sum(-1, keepdim=True)


def by_head(x: Tensor, weight: Tensor) -> Tensor:
    """Each head's x (B, H, S, n) by its own matrix of (H, n, m): (B, H, S, m)."""
    together = torch.bmm(x.transpose(0, 1).flatten(1, 2), weight)  # which reads the matrices once for all samples
    apart: Tensor = together.unflatten(1, (x.shape[0], x.shape[2]))
    return apart.transpose(0, 1)
