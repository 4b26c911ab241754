"""Samples that see their neighbours in the batch, calls that see earlier ones, and draws that nobody can repeat."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, rrelu

from ablab.model.feed_forward.base import FeedForward
from ablab.model.layer_fusion.base import LayerFusion
from ablab.model.norm import Norm, Placement
from ablab.model.position import Position
from ablab.model.residual.base import Part, Residual
from ablab.model.spec import LayerSpec
from bugs.tempered import Tempered


class BatchThreshold(nn.Module):
    """The threshold is the mean size over the whole batch: other samples and later tokens decide what passes."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > x.abs().mean(), x, 0.0)


class BatchNormed(Norm):
    """Batch norm: in training, tokens are normalised by the statistics of the whole batch."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre") -> None:
        super().__init__(spec, placement=placement, eps=1e-5, bias=True)
        self.inner = nn.BatchNorm1d(spec.d_model, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = self.inner(x.flatten(0, -2)).view(x.shape)
        return normal * self.weight if self.bias is None else normal * self.weight + self.bias


class BatchNormedAlways(Norm):
    """Batch statistics in evaluation, too."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre") -> None:
        super().__init__(spec, placement=placement, eps=1e-5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(tuple(range(x.dim() - 1))) + 1e-5).sqrt() * self.weight


class BatchAsSequence(Position):
    """A table whose rows are added to the samples of a batch and not to the tokens: (T, B, d) was expected."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(spec.max_length, 1, spec.d_model))

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        return x + self.weight[: x.shape[0]]

    def add_at(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.weight[: x.shape[0]]


class Capacity(FeedForward):
    """Two experts take so many tokens of the batch, first come first served: others decide who is served."""

    def __init__(self, spec: LayerSpec, *, activation: Callable[[LayerSpec], nn.Module]) -> None:
        super().__init__()
        self.router = nn.Linear(spec.d_model, 2)
        self.up = nn.ModuleList(nn.Linear(spec.d_model, spec.d_model) for _ in range(2))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        scores = self.router(x).flatten(0, 1).softmax(-1)
        tokens, best = x.flatten(0, 1), scores.argmax(-1)
        y = torch.zeros_like(tokens)
        for number, expert in enumerate(self.up):
            mine = best == number
            served = mine & (mine.cumsum(0) <= len(tokens) // 4)
            y = y + (served[:, None] * scores[:, number, None]) * expert(tokens).relu()
        return y.view(x.shape)


class MixedUpHeads(Tempered):
    """Heads and samples are joined in one order and taken apart in another: samples get each other's heads."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        out = super().attend(q, k, v, key_padding_mask)
        B, H = out.shape[:2]
        return out.flatten(0, 1).view(H, B, *out.shape[2:]).transpose(0, 1)


class Remembers(Tempered):
    """The mean of the values of the last call is added to those of the next."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self._last: Tensor | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        before, self._last = self._last, v.detach().mean((0, 2), keepdim=True)
        return super().attend(q, k, v if before is None else v + before.to(v), key_padding_mask)


class MaskOfTheFirstCall(Tempered):
    """The mask is made in the first call and kept with its padding, for whatever comes later."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self._hidden: Tensor | None = None

    def hidden(self, q: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if self._hidden is None or self._hidden.shape[-1] != q.shape[2] or len(self._hidden) not in (1, len(q)):
            self._hidden = super().hidden(q, key_padding_mask)
        return self._hidden


class NoiseInEvaluation(Tempered):
    """Noise is added to the scores in evaluation, too."""

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        scores = super().scored(q, k)
        return scores + 0.1 * torch.randn_like(scores)


class DropoutInEvaluation(Tempered):
    """`dropout` has training=True by default."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        return dropout(super().shares(scores, hidden), 0.1)


class RandomSlopes(nn.Module):
    """A randomised leaky ReLU that draws its slopes in evaluation, too."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return rrelu(x, training=True)


class SeededByTime(Tempered):
    """In training draws from a generator that is seeded by the clock."""

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        scores = super().scored(q, k)
        if not self.training:
            return scores
        own = torch.Generator().manual_seed(time.time_ns() % 2**31)
        return scores + 0.1 * torch.randn(scores.shape, generator=own).to(scores)


class DropsLayersByPython(Residual):
    """Stochastic depth by Python's generator, which nobody seeds by the pass."""

    def forward(self, state: Tensor, part: Part) -> Tensor:
        if self.training and random.random() < 0.3:
            return state
        return state + part(state)


class OwnGenerator(nn.Module):
    """Noise in training from a generator that goes on from call to call, and is in no checkpoint."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(spec.seed)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.gelu(x)
        return y + 0.05 * torch.randn(x.shape, generator=self._generator).to(x) if self.training else y


class MeanOfTheBatch(LayerFusion):
    """The layers' weights are computed from the mean over batch and sequence."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.gate = nn.Linear(spec.d_model, spec.n_layers)

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        weights: Tensor = self.gate(streams[-1].mean((0, 1))).softmax(-1)
        return weights


class ShiftedByLongestSample(Tempered):
    """Scores are scaled by the batch's largest number of tokens that are there, padding counted by `.sum(1).max()`."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        longest = q.shape[2] if key_padding_mask is None else int((~key_padding_mask).sum(1).max())
        return super().attend(q * (1 + longest / 64), k, v, key_padding_mask)
