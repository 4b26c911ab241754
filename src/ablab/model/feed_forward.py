"""The axis `feed_forward`: what a block computes for each token by itself, after its attention.

An option is `FeedForward(spec, *, activation, own_option, ...)`, where `activation` is the factory of the model's own
axis of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ablab.model.initialisation import ResidualLinear
from ablab.model.mechanism import Watcher, answer, drawn, place_of, projected
from ablab.model.protocols import SizesItself, WorksByUnit
from ablab.model.ranks import sum_over_ranks
from ablab.model.spec import LayerSpec

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

ROWS = 64  # tokens that a feed-forward part is asked about


class FeedForward(nn.Module):
    """Maps the stream's tokens (B, T, d_model) to what is added to them, of the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def activations(self) -> Iterator[tuple[nn.Module, int]]:
        """Its activations, each with the number of features that it gives."""
        return iter(())


class Dense(FeedForward):
    """Two linear layers with an activation between (Vaswani et al. 2017, section 3.3).

    An activation with a gate says how many features it takes and gives; see `ablab.model.activation`.
    """

    def __init__(self, spec: LayerSpec, *, activation: Callable[[LayerSpec], nn.Module]) -> None:
        super().__init__()
        core = activation(spec)
        inputs, width = (core.inputs, core.width) if isinstance(core, SizesItself) else (spec.d_ff, spec.d_ff)
        self.up = nn.Linear(spec.d_model, inputs, bias=spec.bias)
        self.activation = core
        self.down = ResidualLinear(width, spec.d_model, bias=spec.bias, n_layers=spec.n_layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.activation(self.up(x)))
        return y

    def activations(self) -> Iterator[tuple[nn.Module, int]]:
        yield self.activation, self.down.in_features

    @property
    def by_unit(self) -> bool:
        """Whether a process can hold some of the hidden units, and give what these would give among the others."""
        core = self.activation
        works_apart = isinstance(core, WorksByUnit) and core.by_unit and not list(core.parameters())
        return works_apart and self.up.out_features == self.down.in_features


class FeedForwardWatcher(Watcher):
    """Measures what a feed-forward part gives."""

    def __init__(self, axis: str, layer: int, module: nn.Module, *, device: torch.device) -> None:
        super().__init__(axis, layer, module)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # squares, numbers

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        self.sums += torch.stack([output.float().square().sum().double(), self.sums.new_tensor(output.numel())])

    def metrics(self) -> dict[str, float]:
        """`output_rms`: how large the numbers are that are added to the stream."""
        squares, count = sum_over_ranks(self.sums.clone()).tolist()
        return super().metrics() | ({"output_rms": (squares / count) ** 0.5} if count else {})


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """The feed-forward part of every block."""
    for layer, block in model.layers():
        yield FeedForwardWatcher("feed_forward", layer, block.feed_forward, device=model.head.weight.device)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """Projections of what each block's part gives with weights drawn by their names."""
    like = model.head.weight
    tokens = drawn("tokens", (1, ROWS, like.shape[1]), like)
    return {
        place_of(layer, place): projected(answer(block.feed_forward, tokens))
        for place, (layer, block) in enumerate(model.layers())
    }
