"""Numbers that do not hold: dtypes, overflow, changes in place, and what is compiled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ablab.model.feed_forward.base import Dense
from ablab.model.norm import Norm, Placement
from ablab.model.residual.base import Part, Residual
from ablab.model.spec import LayerSpec
from bugs.tempered import Tempered


class SingleOnly(Tempered):
    """Computes in float32 and returns it, whatever came in."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().attend(q.float(), k.float(), v.float(), key_padding_mask)


class LosesDouble(Tempered):
    """Goes through float32 and back, so that in float64 half of the digits are lost."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().attend(q.float(), k.float(), v.float(), key_padding_mask).to(v.dtype)


class SingleBuffer(Tempered):
    """A bias by position is made anew in float32 in every call: a mix of dtypes, in float64 and in half precision."""

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        keys = torch.arange(k.shape[2], device=k.device)
        return torch.baddbmm(
            (0.02 * (keys - keys[:, None]).float()).expand(q.shape[0] * q.shape[1], -1, -1),
            q.flatten(0, 1),
            k.flatten(0, 1).mT * self.temperature.mean().to(q),
            alpha=q.shape[-1] ** -0.5,
        ).view(*q.shape[:3], -1)


class BareExponential(Tempered):
    """A softmax without taking off the largest score: infinite for large ones."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        weights = scores.exp().masked_fill(hidden, 0)
        return weights / (weights.sum(-1, keepdim=True) + 1e-9)


class Mish(nn.Module):
    """x tanh(softplus(x)) as n / (n + 2) with n = e^x (e^x + 2): NaN from x = 45 on."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        e = x.exp()
        n = e * (e + 2)
        return x * n / (n + 2)


class SwishByHand(nn.Module):
    """x e^x / (1 + e^x): NaN for large x, in float16 already from 12 on."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * x.exp() / (1 + x.exp())


class RootOfZero(nn.Module):
    """The root where x is above 0, by a `where` behind it: the gradient of the other side is 0 times NaN."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x.sqrt(), 0.0)


class VarianceByDifference(Norm):
    """The variance as mean of squares less square of the mean: below zero by rounding, of tokens with a large mean."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre") -> None:
        super().__init__(spec, placement=placement, eps=1e-8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = x.square().mean(-1, keepdim=True) - mean.square()
        return (x - mean) * (variance + 1e-8).rsqrt() * self.weight


class NormInPlace(Norm):
    """Takes the mean off the stream itself."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre") -> None:
        super().__init__(spec, placement=placement, eps=1e-6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x -= x.mean(-1, keepdim=True)
        return x / (x.abs().mean(-1, keepdim=True) + 1e-6) * self.weight


class AddsInPlace(Residual):
    """Adds to the stream in place: whoever kept it, as a layer fusion does, has the sum."""

    def forward(self, state: Tensor, part: Part) -> Tensor:
        state += part(state)
        return state


class MaskInPlace(Tempered):
    """The caller's mask of padded keys is changed: from the second layer on all have another one."""

    def hidden(self, q: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if key_padding_mask is not None:
            key_padding_mask[:, -1] = True
        return super().hidden(q, key_padding_mask)


class CompiledWithoutMask(Tempered):
    """What is compiled is another formula, which forgot the mask."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        return scores.softmax(-1) if torch.compiler.is_compiling() else super().shares(scores, hidden)


class ReadsAValue(nn.Module):
    """Looks at a number of its input to decide, which breaks the graph, and by the whole batch."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if x.mean().item() > 0 else 0.5 * x.relu()


class ByNumpy(nn.Module):
    """Goes through NumPy: no gradient, no graph, no GPU."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.maximum(x.detach().numpy(), 0.1)).to(x.dtype)


class PinnedLength(Tempered):
    """The mask is made for the longest sequence and cut for the queries alone: other lengths fail."""

    def hidden(self, q: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if q.shape[2] % 8:
            raise RuntimeError("shape mismatch: the sequence is no multiple of 8")
        return super().hidden(q, key_padding_mask)


class OnTheCPU(Tempered):
    """A mask that is made on the CPU, wherever the queries are."""

    def hidden(self, q: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device="cpu").triu(1)
        return hidden if key_padding_mask is None else hidden | key_padding_mask[:, None, None, :].cpu()


class ScaledByWholeTensor(Dense):
    """What comes out is divided by its largest number, of all tokens."""

    def __init__(self, spec: LayerSpec, *, activation: Callable[[LayerSpec], nn.Module]) -> None:
        super().__init__(spec, activation=activation)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        return y / y.abs().max().clamp(min=1e-3)
