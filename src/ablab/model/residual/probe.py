"""The axis `residual` at work: how the state grows, and what connections tell of their weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ablab.model.context import LayerContext
from ablab.model.mechanism import Watcher, drawn, place_of, projected
from ablab.model.ranks import sum_over_ranks
from ablab.model.residual.base import VALUES, Ends, Residual

if TYPE_CHECKING:
    from ablab.model.block import Block
    from ablab.model.transformer import Transformer

ROWS = 32  # tokens that the residuals of a block are asked about


class ConnectionWatcher(Watcher):
    """Takes the means over tokens of what a connection tells of a state, by its `sees` and `seen`."""

    def __init__(self, axis: str, layer: int | None, module: Residual | Ends, *, device: torch.device) -> None:
        super().__init__(axis, layer, module)
        self.names = list(module.sees)
        self.sums = torch.zeros(len(self.names) + 1, dtype=torch.float64, device=device)  # and tokens

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        assert isinstance(module, Residual | Ends)
        every = args[0].new_ones(args[0].shape[:2])
        found = [self.kept(each.expand_as(every))[0].sum().double() for each in module.seen(args[0])]
        self.sums += torch.stack([*found, self.kept(every)[1]])

    def metrics(self) -> dict[str, float]:
        *sums, tokens = sum_over_ranks(self.sums.clone()).tolist()
        means = {name: each / tokens for name, each in zip(self.names, sums, strict=True)} if tokens else {}
        return super().metrics() | means


class GainWatcher(Watcher):
    """Measures how much larger the state is behind a part than before it."""

    def __init__(self, axis: str, layer: int, module: Residual, *, device: torch.device) -> None:
        super().__init__(axis, layer, module)
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)  # squares and numbers before, and behind

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        for place, x in enumerate((args[0], output)):
            own, numbers = self.kept(x)
            self.sums[2 * place : 2 * place + 2] += torch.stack([own.float().square().sum().double(), numbers])

    def metrics(self) -> dict[str, float]:
        """`gain`: the root mean square of the state behind a part over that of the state before it."""
        before, numbers, behind, more = sum_over_ranks(self.sums.clone()).tolist()
        return {"gain": math.sqrt((behind / more) / (before / numbers))} if before else {}


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """Both residual connections of every block, and what is read in the end."""
    device = model.head.weight.device
    for layer, block in model.layers():
        for each in (block.attention_residual, block.feed_forward_residual):
            yield GainWatcher("residual", layer, each, device=device)
            yield ConnectionWatcher("residual", layer, each, device=device)
    yield ConnectionWatcher("residual", None, model.ends, device=device)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """For each block, projections of what is read in the end of a state that went past two parts, and of mixed values.

    The weights are the model's own: connections that training left as the plain residual answer as it does.
    """
    return {place_of(layer, place): _answers(model, block) for place, (layer, block) in enumerate(model.layers())}


def _answers(model: Transformer, block: Block) -> list[float]:
    like = model.head.weight
    x, one, other = (drawn(name, (1, ROWS, like.shape[1]), like) for name in ("tokens", "added", "added next"))
    state = model.ends.begin(x)
    for residual, added in ((block.attention_residual, one), (block.feed_forward_residual, other)):
        state = residual(state, lambda y, added=added: added + y.tanh())
    own, first = (drawn(name, (1, 1, ROWS, like.shape[1]), like) for name in ("values", "first values"))
    mix = block.attention_residual.given(LayerContext(shared={VALUES: first})).values
    return [*projected(model.ends(state)), *projected(own if mix is None else mix(own))]
