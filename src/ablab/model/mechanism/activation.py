"""What an activation lets through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ablab.model.mechanism.watcher import Watcher
from ablab.model.ranks import sum_over_ranks


class ActivationWatcher(Watcher):
    """Counts zeros over everything that passes."""

    def __init__(self, axis: str, layer: int, module: nn.Module, *, device: torch.device, units: int) -> None:
        super().__init__(axis, layer, module)
        self.counts = torch.zeros(units + 1, dtype=torch.int64, device=device)  # zeros of each unit, then tokens

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        self.counts[:-1] += (output == 0).flatten(0, -2).sum(0)
        self.counts[-1] += output.shape[:-1].numel()

    def figures(self) -> dict[str, float]:
        figures = super().figures()
        # Summed even by a process that saw nothing: the others wait for it.
        *zeros, tokens = sum_over_ranks(self.counts.clone()).tolist()
        if tokens:
            figures["zero_share"] = sum(zeros) / (tokens * len(zeros))
            figures["dead_share"] = sum(unit == tokens for unit in zeros) / len(zeros)
        return figures
