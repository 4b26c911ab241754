"""More ways to the future: shapes, transforms of whole sequences, and the length itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ablab.model.attention.base import AttentionCore, repeat_heads
from ablab.model.attention.layer import AttentionLayer, Rotate
from ablab.model.attention.projections import split_heads
from ablab.model.feed_forward.base import Dense
from ablab.model.position import Position
from ablab.model.spec import LayerSpec
from bugs.tempered import Tempered


class JoinedWithoutTransposing(AttentionLayer):
    """Heads are joined by a reshape of (B, H, T, D), without exchanging heads and tokens before."""

    core: AttentionCore

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.core, self.head_size = Tempered(spec), spec.head_size
        self.project = nn.Linear(spec.d_model, 3 * spec.d_model)
        self.output = nn.Linear(spec.d_model, spec.d_model)

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        q, k, v = (split_heads(each, self.head_size) for each in self.project(x).chunk(3, -1))
        q, k = rotate(q, k)
        mixed: Tensor = self.output(self.core(q, k, v, key_padding_mask).reshape(x.shape))
        return mixed


class WholeChunkSeen(Tempered):
    """The mask goes by chunks of eight: a query sees its whole chunk, the end of it included."""

    def allowed(self, positions: Tensor, length: int) -> Tensor:
        return torch.arange(length, device=positions.device) // 8 <= positions[:, None] // 8


class BothDirections(Tempered):
    """A running mean from the end of the sequence is added, as for a model that is not causal."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        out = super().attend(q, k, v, key_padding_mask)
        there = torch.ones_like(v[:, :1, :, :1])
        if key_padding_mask is not None:
            there = there.masked_fill(key_padding_mask[:, None, :, None], 0)
        back = (v * there).flip(2).cumsum(2) / there.flip(2).cumsum(2).clamp(min=1)
        return out + repeat_heads(back.flip(2), q.shape[1])


class FourierMixing(Dense):
    """Mixes tokens by a Fourier transform over the sequence (FNet, which is for encoders)."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        mixed: Tensor = torch.fft.fft(exact, dim=1, norm="ortho").real.to(x.dtype)
        return super().forward(x) + 0.1 * mixed


class CircularConvolution(Tempered):
    """A long convolution by FFT without zeros behind the sequence: its end comes round to its start."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        out = super().attend(q, k, v, key_padding_mask)
        if key_padding_mask is not None:
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0)
        exact = v.to(torch.promote_types(v.dtype, torch.float32))
        taps = 0.8 ** torch.arange(v.shape[2], device=v.device, dtype=exact.dtype)
        product = torch.fft.rfft(exact, dim=2) * torch.fft.rfft(taps)[:, None]
        long: Tensor = torch.fft.irfft(product, n=v.shape[2], dim=2).to(v.dtype)
        return out + repeat_heads(long, q.shape[1])


class DividedByLength(Tempered):
    """A running sum is divided by the length of the sequence and not by the place in it."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        out = super().attend(q, k, v, key_padding_mask)
        if key_padding_mask is not None:
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0)
        return out + 4 * repeat_heads(v.cumsum(2), q.shape[1]) / v.shape[2]


class ScaledByLength(Tempered):
    """Scores are scaled by the logarithm of the whole length, which grows with tokens to come."""

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scored(q, k) * math.log(k.shape[2])


class StretchedTable(Position):
    """A table of 32 rows is stretched to the length of the sequence: every place hangs on how long it gets."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(32, spec.d_model))

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        table = interpolate(self.weight.T[None], size=x.shape[1], mode="linear")[0].T
        return x + table.to(x.dtype)

    def add_at(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.weight[positions.clamp(max=31)]


class HeadsNotRepeated(Tempered):
    """Cannot be run with fewer heads of keys than of queries: nobody repeats them."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        scores = self.temperature.to(q.dtype)[:, None, None] * (q @ k.mT) / math.sqrt(q.shape[-1])
        return self.shares(scores, self.hidden(q, key_padding_mask)) @ v
