"""What the machine can do: the speed of one large matrix product."""

from __future__ import annotations

import torch

from ablab.bench.attention.setting import Setting
from ablab.bench.attention.timing import once

SIZE = {"cpu": 2048, "cuda": 8192}
REPETITIONS = 5


class MatmulPeak:
    """The fastest of all matrix products that were timed, in FLOP/s; the machine's peak changes with what else runs."""

    def __init__(self, setting: Setting) -> None:
        self.flops_per_second = 0.0
        self._device = setting.device
        self._matrix = torch.ones(SIZE[setting.device], SIZE[setting.device], dtype=setting.torch_dtype).to(
            setting.device
        )

    def measure(self) -> None:
        """Time a few more."""
        n = len(self._matrix)
        for _ in range(REPETITIONS):
            seconds = once(lambda: self._matrix @ self._matrix, self._device)
            self.flops_per_second = max(self.flops_per_second, 2 * n**3 / seconds)
