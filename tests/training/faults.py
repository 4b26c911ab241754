"""Components that go wrong on purpose, for configs to name as their `_target_`."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn

from ablab.model.spec import LayerSpec

PASSES_BEFORE = 2  # in training, that go well


class _Faulty(nn.Module):
    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not x.is_meta:
            self.passes += 1
        return self.fail(x) if self.passes > PASSES_BEFORE else x.relu()

    def fail(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Raises(_Faulty):
    def fail(self, x: Tensor) -> Tensor:
        raise RuntimeError("the cat stepped\non the keyboard")


class Interrupts(_Faulty):
    def fail(self, x: Tensor) -> Tensor:
        raise KeyboardInterrupt


class BecomesNaN(_Faulty):
    def fail(self, x: Tensor) -> Tensor:
        return x * float("nan")


class NaNInEvaluation(nn.Module):
    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if self.training else x * float("nan")


class RaisesOnce(nn.Module):
    """ReLU, which raises after so many passes in training, in the first attempt at a run.

    Args:
        marker: path of a file that the first attempt leaves.
    """

    by_unit = True

    def __init__(self, spec: LayerSpec, *, marker: str, passes: int) -> None:
        super().__init__()
        self.marker = Path(marker)
        self.left = math.inf if self.marker.exists() else passes

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not x.is_meta:
            self.left -= 1
            if self.left < 0:
                self.marker.touch()
                raise RuntimeError("once")
        return x.relu()
