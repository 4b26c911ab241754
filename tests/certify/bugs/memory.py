"""Activations that remember, where no checkpoint does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ablab.model.spec import LayerSpec

Activation = Callable[[LayerSpec], nn.Module]


class RunningMeanNotSaved(nn.Module):
    """A threshold that follows its inputs in training, in a buffer that is in no checkpoint."""

    average: Tensor

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        passed = torch.where(x > self.average, x, 0.0)
        if self.training:
            self.average.lerp_(x.detach().abs().mean(), 0.05)
        return passed


class RunningMeanInPython(nn.Module):
    """The same as a Python number."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.average = 0.0

    def forward(self, x: Tensor) -> Tensor:
        passed = torch.where(x > self.average, x, 0.0)
        if self.training:
            self.average = 0.95 * self.average + 0.05 * x.detach().abs().mean().item()
        return passed


class FollowsInEvaluation(nn.Module):
    """A threshold that moves in evaluation, too."""

    average: Tensor

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        passed = torch.where(x > self.average, x, 0.0)
        self.average.lerp_(x.detach().abs().mean().to(self.average.dtype), 0.05)
        return passed


class AnnealedByCalls(nn.Module):
    """A temperature that falls with each call in training, counted by an attribute that is in no checkpoint."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x * (x * (1 + 0.1 * self.calls)).sigmoid()


class ResampledByCount(nn.Module):
    """Counts how often it was asked to resample, in place of taking the step that it is told."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self._count = 0

    def resample(self, step: int) -> None:
        """Before each step."""
        self._count += 1

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() * (1 + 0.1 * (self._count % 7))
