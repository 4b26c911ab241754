"""The short convolution in front of a recurrence (`ablab.model.attention.linear`)."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, silu

from ablab.model.spec import require_at_least


class ShortConvolution(nn.Module):
    """A causal convolution of each channel by itself, and SiLU: (B, T, channels) -> the same shape.

    A sum of shifted sequences: for a few taps that is faster on a CPU than a convolution by groups.

    Args:
        size: taps, the token's own included.

    Raises:
        ValueError: there are none.
    """

    parameter_groups: ClassVar = {"weight": "kernels"}

    def __init__(self, channels: int, size: int, *, bias: bool) -> None:
        super().__init__()
        require_at_least(1, "conv_size", size)
        self.weight = nn.Parameter(torch.empty(channels, size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As PyTorch's convolutions: the taps' variance is 1 / (3 size), whatever follows is of the input's size."""
        if name == "weight":
            bound = parameter.shape[1] ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        if torch.compiler.is_compiling():  # which makes one kernel of it by itself
            before = pad(x, (0, 0, weight.shape[1] - 1, 0)).unfold(1, weight.shape[1], 1)
            mixed = (before * weight).sum(-1)
        else:
            mixed = cast(Tensor, _Taps.apply(x, weight))  # type: ignore[no-untyped-call]
        return silu(mixed if self.bias is None else mixed + self.bias.to(x.dtype))

    def onward(self, joined: Tensor) -> Tensor:
        """`forward` of a sequence that goes on, (B, size - 1 + S, channels) with its last inputs: (B, S, channels)."""
        before = self.weight.shape[1] - 1
        if joined.shape[1] > before + 1:
            return cast(Tensor, self(joined)[:, before:])
        mixed = (joined * self.weight.T.to(joined.dtype)).sum(1, keepdim=True)
        return silu(mixed if self.bias is None else mixed + self.bias.to(joined.dtype))


class _Taps(torch.autograd.Function):
    """The sum of x (B, T, channels) by weights (channels, size), in place: autograd would keep a sequence for each tap.

    The last tap is the token's own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        own, *before = weight.flip(1).T.contiguous()  # whose numbers lie side by side
        mixed: Tensor = x * own
        for back, tap in enumerate(before, 1):
            mixed[:, back:].addcmul_(x[:, :-back], tap)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        own, *before = weight.flip(1).T.contiguous()
        of_x, of_taps = grad * own, [(grad * x).sum((0, 1))]
        for back, tap in enumerate(before, 1):
            of_x[:, :-back].addcmul_(grad[:, back:], tap)
            of_taps.append((grad[:, back:] * x[:, :-back]).sum((0, 1)))
        return of_x, torch.stack(of_taps[::-1], 1)
