"""The axis `activation` at work: the share of zeros, and of units that never pass anything."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablab.model.activation.stateless import ClampedSwiGLU
from ablab.model.feed_forward.base import FeedForward
from ablab.model.feed_forward.grouped import places
from ablab.model.feed_forward.stacked import Experts
from ablab.model.mechanism import Watcher, drawn, place_of, projected
from ablab.model.presence import kept
from ablab.model.protocols import SizesItself
from ablab.model.ranks import sum_over_data, sum_over_tp_ranks, tp_size

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

ROWS = 64  # inputs that an activation is asked about
LARGE = 32.0  # size of some of them, beyond where anything is bounded


class ActivationWatcher(Watcher):
    """Counts the zeros of the activations of a feed-forward part, over everything that passes."""

    def __init__(self, axis: str, layer: int, module: FeedForward, *, device: torch.device) -> None:
        super().__init__(axis, layer, module)
        experts = {each.activation: each for each in module.modules() if isinstance(each, Experts)}
        self.zeros = [
            ExpertZeros(activation, units, device, experts[activation])
            if activation in experts
            else Zeros(activation, units, device)
            for activation, units in module.activations()
        ]

    def attach(self) -> list[RemovableHandle]:
        return [handle for each in self.zeros for handle in each.attach(self)]

    def metrics(self) -> dict[str, float]:
        """`zero_share`, of what all activations gave; `dead_share`, of their hidden units; `limited_share` of some."""
        totals = [each.totals() for each in self.zeros]
        zero, dead, units, passed, limited, all_units = (sum(each) for each in zip(*totals, strict=True))
        shares = {"zero_share": zero / passed, "dead_share": dead / units} if passed else {}
        return shares | ({"limited_share": limited / all_units} if all_units else {})


class Zeros:
    """What is counted of one activation: of each hidden unit how often it was zero.

    Args:
        units: of the activation, wherever they are; this process counts those that it holds.
        groups: sets of hidden units, each of which gets some of the rows that pass.
    """

    def __init__(self, activation: nn.Module, units: int, device: torch.device, *, groups: int = 1) -> None:
        self.activation = activation
        # Of each group and each unit that this process holds the zeros, then the group's rows.
        self.counts = torch.zeros(groups, units // tp_size() + 1, dtype=torch.int64, device=device)
        self.bounded = torch.zeros(2, dtype=torch.int64, device=device)  # units that a limit changes, and all

    def attach(self, watcher: Watcher) -> list[RemovableHandle]:
        return [self.activation.register_forward_hook(watcher.guarded(partial(self.see, watcher)))]

    @torch.no_grad()
    def see(self, watcher: Watcher, activation: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Count what the activation gave, (..., units); all rows but those of padding."""
        gone = self.gone(watcher, output)
        zero, numbers = kept(output == 0, gone)
        self.count(zero, gone)
        if isinstance(activation, ClampedSwiGLU):
            self.bounded[0] += kept(activation.limited(args[0]), gone)[0].sum()
            self.bounded[1] += numbers.long()

    def gone(self, watcher: Watcher, output: Tensor) -> Tensor | None:
        """Which of the rows of `output` are of padding; None: none of them."""
        return None if watcher.presence is None else watcher.presence.missing(output)

    def count(self, zero: Tensor, gone: Tensor | None) -> None:
        self.counts[0, :-1] += zero.flatten(0, -2).sum(0)
        self.counts[0, -1] += zero.shape[:-1].numel() if gone is None else (~gone).sum()

    def totals(self) -> list[int]:
        """Zeros, dead units, units, what units gave in all; what a limit changed and could have. Over all processes."""
        # Summed even by a process that saw nothing: the others wait for it.
        zeros, rows = sum_over_data(self.counts.clone()).split([self.counts.shape[1] - 1, 1], 1)
        own = torch.stack([zeros.sum(), (zeros == rows).sum(), rows.new_tensor(zeros.numel())])
        zero, dead, units = sum_over_tp_ranks(own).tolist()
        passed = int(rows.sum()) * (units // len(rows))
        return [zero, dead, units, passed, *sum_over_data(self.bounded.clone()).tolist()]


class ExpertZeros(Zeros):
    """Likewise of the activation of experts, each of which has hidden units of its own.

    The activation is given the rows of all experts in their order, in one call or in several.
    """

    def __init__(self, activation: nn.Module, units: int, device: torch.device, experts: Experts) -> None:
        super().__init__(activation, units, device, groups=len(experts.up))
        self.experts = experts
        self._owner = self._gone = torch.zeros(0)  # of the rows to come: their experts, and which are of padding

    def attach(self, watcher: Watcher) -> list[RemovableHandle]:
        begin = watcher.guarded(partial(self._begin, watcher))
        return [self.experts.register_forward_pre_hook(begin), *super().attach(watcher)]

    def _begin(self, watcher: Watcher, experts: nn.Module, args: tuple[Any, ...]) -> None:
        x, routing = args[:2]
        at = places(routing.chosen, len(self.counts))
        missing = None if watcher.presence is None else watcher.presence.missing(x)
        tokens = x.new_zeros(x.shape[:2], dtype=torch.bool) if missing is None else missing
        self._owner, self._gone = at.owner, tokens.flatten()[at.tokens(tokens.numel())]

    def gone(self, watcher: Watcher, output: Tensor) -> Tensor:
        gone, self._gone = self._gone.tensor_split([output.shape[1]])
        return gone.unsqueeze(0)

    def count(self, zero: Tensor, gone: Tensor | None) -> None:
        assert gone is not None
        owner, self._owner = self._owner.tensor_split([zero.shape[1]])
        counted = torch.cat([zero[0], ~gone[0].unsqueeze(1)], 1).int()  # in half the memory
        self.counts += torch.zeros_like(self.counts, dtype=torch.int32).index_add_(0, owner, counted)


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """The activations of every layer."""
    for layer, block in model.layers():
        activations = [activation for activation, _ in block.feed_forward.activations()]
        yield from (Watcher("activation", layer, activation) for activation in activations)
        if activations:
            yield ActivationWatcher("activation", layer, block.feed_forward, device=model.head.weight.device)


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
