"""What goes wrong in long sequences alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.full import FullAttention
from ablab.model.spec import LayerSpec
from bugs.tempered import Tempered

MANY = 128


class BlockEdge(Tempered):
    """In blocks of 128, by `<=` where `<` was meant: the last query of each sees the first key of the next."""

    def allowed(self, positions: Tensor, length: int) -> Tensor:
        return super().allowed(positions + (positions % MANY == MANY - 1), length)


class LongWithoutMask(Tempered):
    """A fast path for more than 128 tokens, which forgets the mask of padded keys."""

    def hidden(self, q: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().hidden(q, key_padding_mask if q.shape[2] <= MANY else None)


class LongestSeen(Tempered):
    """Scores of more than 128 tokens are scaled by their number, with the padding."""

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        scores = super().scored(q, k)
        return scores if k.shape[2] <= MANY else scores * MANY / k.shape[2]


class CacheOf128(FullAttention):
    """With a cache, what is made of the tokens behind the first 128 is another."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, softcap=3.0)

    def extend(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step) -> Tensor:
        out = super().extend(q, k, v, cache, step)
        return torch.where((step.positions >= MANY)[:, None, :, None], 0.5 * out, out)


class LargeInLong(Tempered):
    """Sums over more than 128 keys are divided by what single precision cannot hold where scores are large."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        if scores.shape[-1] <= MANY:
            return super().shares(scores, hidden)
        weights = scores.exp().masked_fill(hidden, 0)
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)


class LossOfLongBatches(Tempered):
    """More than 128 tokens are scaled by the size of all samples of the batch, not of each; alone it is right."""

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        scores = super().scored(q, k)
        return scores if k.shape[2] <= MANY else scores / (1 + q.shape[0])
