"""What an activation lets through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ablab.model.mechanism.watcher import Watcher
from ablab.model.ranks import parts, sum_over_data, sum_over_parts


class ActivationWatcher(Watcher):
    """Counts zeros over everything that passes."""

    def __init__(self, axis: str, layer: int, module: nn.Module, *, device: torch.device, units: int) -> None:
        super().__init__(axis, layer, module)
        # Of each unit that this process holds the zeros, then tokens.
        self.counts = torch.zeros(units // parts() + 1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        self.counts[:-1] += (output == 0).flatten(0, -2).sum(0)
        self.counts[-1] += output.shape[:-1].numel()

    def figures(self) -> dict[str, float]:
        figures = super().figures()
        # Summed even by a process that saw nothing: the others wait for it.
        *zeros, tokens = sum_over_data(self.counts.clone()).tolist()
        own = self.counts.new_tensor([sum(zeros), sum(unit == tokens for unit in zeros), len(zeros)])
        zero, dead, units = sum_over_parts(own).tolist()
        if tokens:
            figures["zero_share"] = zero / (tokens * units)
            figures["dead_share"] = dead / units
        return figures
