"""Components for the tests of certificates: one that is right, and some that are wrong in one thing each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.norm import Norm
from ablab.model.spec import LayerSpec


class Sine(nn.Module):
    """sin(f x), with a frequency for each hidden unit to learn."""

    def __init__(self, spec: LayerSpec, *, frequency: float = 1.0) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.full((spec.d_ff,), frequency))

    def forward(self, x: Tensor) -> Tensor:
        return (self.frequency * x).sin()


class Peeking(Sine):
    """Hears a little of the mean over all tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 1e-3 * x.mean(1, keepdim=True)) if x.ndim == 3 else super().forward(x)


class Deaf(Sine):
    """Has a parameter that nothing hangs on, and a setting."""

    def __init__(self, spec: LayerSpec, *, frequency: float = 1.0, unused: float = 2.0) -> None:
        super().__init__(spec, frequency=frequency)
        self.offset = nn.Parameter(torch.zeros(spec.d_ff))


class Forgetful(Norm):
    """Divides by a moving average that no checkpoint has."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, placement="pre", eps=1e-6, bias=False)
        self.average = 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.average = 0.9 * self.average + 0.1 * float(x.detach().abs().mean())
        return self.weight * x / self.average
