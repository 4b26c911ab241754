"""Attention that sees the future."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ablab.model.attention.base import repeat_heads
from ablab.model.spec import LayerSpec
from bugs.tempered import Tempered


class NextTokenVisible(Tempered):
    """The mask is off by one: a query sees the key behind its own."""

    def allowed(self, positions: Tensor, length: int) -> Tensor:
        return super().allowed(positions + 1, length)


class MaskedAfterSoftmax(Tempered):
    """Later keys are hidden behind the softmax, whose sum they stay in."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        return scores.softmax(-1).masked_fill(hidden, 0)


class MaskedByZero(Tempered):
    """Scores are multiplied by the mask: a hidden key has the score 0, and exp(0) = 1."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        return (scores * ~hidden).softmax(-1)


class SoftmaxOverQueries(Tempered):
    """The softmax runs over the queries: a key's weight hangs on those that come later."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        return scores.masked_fill(hidden, -1e4).softmax(-2).masked_fill(hidden, 0)


class MaskTransposed(Tempered):
    """The causal mask is the other way round."""

    def allowed(self, positions: Tensor, length: int) -> Tensor:
        keys = torch.arange(length, device=positions.device)
        return keys >= positions[:, None]


class TopKBeforeMask(Tempered):
    """The eight highest keys are chosen among all, and those of the future hidden afterwards."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        least = scores.topk(min(8, scores.shape[-1]), -1).values[..., -1:]
        return super().shares(scores, hidden | (scores < least))


class KeysChooseQueries(Tempered):
    """Each key picks the queries that read it, later ones included."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        least = scores.masked_fill(hidden, -1e4).topk(min(8, scores.shape[-2]), -2).values[..., -1:, :]
        return super().shares(scores, hidden | (scores < least))


class NormedOverSequence(Tempered):
    """Queries are standardised by mean and deviation over the whole sequence."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        q = (q - q.mean(2, keepdim=True)) / (q.std(2, keepdim=True) + 1e-5)
        return super().attend(q, k, v, key_padding_mask)


class CentredConvolution(Tempered):
    """Values go through a convolution that is padded on both sides."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.taps = nn.Parameter(torch.tensor([0.2, 1.0, 0.2]))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if key_padding_mask is not None:
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0)
        before, own, behind = self.taps.to(v.dtype)
        around = pad(v, (0, 0, 1, 1))
        return super().attend(q, k, before * around[:, :, :-2] + own * v + behind * around[:, :, 2:], key_padding_mask)


class BlockSeenTooSoon(Tempered):
    """Besides its keys a query sees the mean of its block of four as soon as that has begun."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        own = super().attend(q, k, v, key_padding_mask)
        if key_padding_mask is not None:
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0)
        v, length = repeat_heads(v, q.shape[1]), v.shape[2]
        blocks: Tensor = pad(v, (0, 0, 0, -length % 4)).unflatten(2, (-1, 4)).mean(3)
        return own + blocks.repeat_interleave(4, 2)[:, :, :length]


class LongShift(Tempered):
    """Keys are rolled by three places: the first ones are those of the sequence's end."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().attend(q, k.roll(3, 2), v, key_padding_mask)


class SortedKeys(Tempered):
    """Keys and values are sorted by size, and the mask goes by their places in that order."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        order = k.norm(dim=-1, keepdim=True).argsort(2)
        k, v = (each.gather(2, order.expand_as(each)) for each in (k, v))
        return super().attend(q, k, v, key_padding_mask)


class LastTokenSummary(Tempered):
    """A bias by the mean of all queries of the sequence is added to the scores."""

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scored(q + q.mean(2, keepdim=True), k)


class FutureInTraining(Tempered):
    """Causal in evaluation alone: in training a key's values are centred by those of the whole sequence."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().attend(q, k, v - v.mean(2, keepdim=True) if self.training else v, key_padding_mask)


class FarFuture(Tempered):
    """A window written with torch's modulo: what looks back from the first tokens meets the last ones."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        length = v.shape[2]
        at = (torch.arange(length, device=v.device) - 24) % length
        if key_padding_mask is not None:
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0)
        far = repeat_heads(v[:, :, at], q.shape[1])
        return super().attend(q, k, v, key_padding_mask) + 0.5 * far


class FutureByMaximum(Tempered):
    """For stability the largest score of the sequence is subtracted, bounded: later tokens shift what is cut off."""

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        scores = super().scored(q, k)
        return (scores - scores.amax((-1, -2), keepdim=True)).clamp(min=-1.0)
