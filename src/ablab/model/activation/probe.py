"""The axis `activation` at work: the share of zeros, and of units that never pass anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ablab.model.activation.stateless import ClampedSwiGLU
from ablab.model.mechanism import Watcher, drawn, place_of, projected
from ablab.model.protocols import SizesItself
from ablab.model.ranks import sum_over_data, sum_over_tp_ranks, tp_size

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

ROWS = 64  # inputs that an activation is asked about
LARGE = 32.0  # size of some of them, beyond where anything is bounded


class ActivationWatcher(Watcher):
    """Counts zeros over everything that passes."""

    def __init__(self, axis: str, layer: int, module: nn.Module, *, device: torch.device, units: int) -> None:
        super().__init__(axis, layer, module)
        # Of each unit that this process holds the zeros, then tokens.
        self.counts = torch.zeros(units // tp_size() + 1, dtype=torch.int64, device=device)
        self.bounded = torch.zeros(2, dtype=torch.int64, device=device)  # units that a limit changes, and all

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        self.counts[:-1] += (output == 0).flatten(0, -2).sum(0)
        self.counts[-1] += output.shape[:-1].numel()
        if isinstance(module, ClampedSwiGLU):
            self.bounded[0] += module.limited(args[0]).sum()
            self.bounded[1] += output.numel()

    def metrics(self) -> dict[str, float]:
        metrics = super().metrics()
        # Summed even by a process that saw nothing: the others wait for it.
        *zeros, tokens = sum_over_data(self.counts.clone()).tolist()
        own = self.counts.new_tensor([sum(zeros), sum(unit == tokens for unit in zeros), len(zeros)])
        zero, dead, units = sum_over_tp_ranks(own).tolist()
        if tokens:
            metrics["zero_share"] = zero / (tokens * units)
            metrics["dead_share"] = dead / units
        limited, all_units = sum_over_data(self.bounded.clone()).tolist()
        return metrics | ({"limited_share": limited / all_units} if all_units else {})


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """The activations of every layer."""
    for layer, block in model.layers():
        for activation, units in block.feed_forward.activations():
            yield ActivationWatcher("activation", layer, activation, device=model.head.weight.device, units=units)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """Projections of the outputs for ordinary inputs and for large ones, for each layer."""
    found = {}
    for place, (layer, block) in enumerate(model.layers()):
        outputs = [number for each in block.feed_forward.activations() for number in _outputs(model, *each)]
        found[place_of(layer, place)] = outputs
    return found


def _outputs(model: Transformer, activation: nn.Module, width: int) -> list[float]:
    inputs = activation.inputs if isinstance(activation, SizesItself) else width
    units = drawn("units", (1, ROWS, inputs), model.head.weight)
    return [*projected(activation(units)), *projected(activation(LARGE * units))]
