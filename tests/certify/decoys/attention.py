"""Attention that is right and looks odd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from bugs.tempered import Tempered
from torch import Tensor, nn
from torch.nn.functional import elu, pad

from ablab.model.attention.base import AttentionCore, repeat_heads
from ablab.model.attention.full import FullAttention
from ablab.model.attention.layer import AttentionLayer, Rotate
from ablab.model.attention.projections import join_heads, split_heads
from ablab.model.spec import LayerSpec

Activation = Callable[[LayerSpec], nn.Module]


class Softened(Tempered):
    """A temperature for each head, and nothing else."""


class MaskedBehind(Tempered):
    """Hides keys behind the softmax, and divides by what is left: the same numbers, in another order."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        weights = scores.softmax(-1).masked_fill(hidden, 0)
        return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


class WithoutParameters(AttentionLayer):
    """Attention of the stream to itself, without any projection."""

    takes_values = False
    core: AttentionCore

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.core, self.head_size = FullAttention(spec), spec.head_size

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        heads = split_heads(x, self.head_size)
        return join_heads(self.core(*rotate(heads, heads), heads, key_padding_mask))


class Kernelised(AttentionCore):
    """Linear attention: elu(q) + 1 and elu(k) + 1, and running sums."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        k, v = (repeat_heads(each, q.shape[1]) for each in (k, v))
        exact = torch.promote_types(q.dtype, torch.float32)
        q, k, values = elu(q.to(exact)) + 1, elu(k.to(exact)) + 1, v.to(exact)
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0)
        outer = k.unsqueeze(-1) * values.unsqueeze(-2)
        state, size = (outer.cumsum(2), k.cumsum(2)) if self.causal else (outer.sum(2, True), k.sum(2, True))
        mixed = (q.unsqueeze(-2) @ state).squeeze(-2) / ((q * size).sum(-1, keepdim=True) + 1e-6)
        return mixed.to(v.dtype)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        keys = torch.arange(k.shape[2], device=k.device)
        return keys <= positions[:, None] if self.causal else torch.ones_like(keys <= positions[:, None])

    def weights(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        k = repeat_heads(k, q.shape[1])
        scores = (elu(q[:, :, positions]) + 1) @ (elu(k) + 1).mT * self.visited(q, k, positions)
        return scores / (scores.sum(-1, keepdim=True) + 1e-6)


class Convolved(Tempered):
    """Values go through a convolution, of earlier ones alone where the model is causal, else of both sides."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.taps = nn.Parameter(torch.tensor([0.3, 0.5, 1.0]))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if key_padding_mask is not None:
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0)
        length, around = v.shape[2], pad(v, (0, 0, 2, 0) if self.causal else (0, 0, 1, 1))
        taps = self.taps.to(v.dtype)
        mixed = sum((tap * around[:, :, i : i + length] for i, tap in enumerate(taps)), torch.zeros_like(v))
        return super().attend(q, k, mixed, key_padding_mask)

    def weights(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        length = k.shape[2]
        plain = super().weights(q, k, positions)
        shifts = pad(plain, (0, 2) if self.causal else (1, 1))
        return sum((tap * shifts[..., 2 - i : 2 - i + length] for i, tap in enumerate(self.taps)), 0 * plain)
