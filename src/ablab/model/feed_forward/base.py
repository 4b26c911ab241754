"""What every feed-forward part is, and the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from ablab.model.initialisation import ResidualLinear
from ablab.model.protocols import HeedsPadding, SizesItself, WorksByUnit
from ablab.model.spec import LayerSpec


class FeedForward(nn.Module):
    """Maps the stream's tokens to what is added to them."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """What is added to the stream, (B, T, d_model).

        Args:
            x: the stream, (B, T, d_model).
            key_padding_mask: (B, T) bool, true where there is no token; None: there is one everywhere.
            ids: the tokens that went into the model, (B, T) int64; None where it was given something else.
        """
        raise NotImplementedError

    def activations(self) -> Iterator[tuple[nn.Module, int]]:
        """Its activations, each with the number of features that it gives."""
        return iter(())


def heeds_padding(activation: nn.Module) -> bool:
    """Whether an activation is to be given the mask, too."""
    return isinstance(activation, HeedsPadding) and activation.heeds_padding


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

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        hidden = self.up(x)
        heeds = key_padding_mask is not None and heeds_padding(self.activation)
        y: Tensor = self.down(self.activation(hidden, key_padding_mask) if heeds else self.activation(hidden))
        return y

    def activations(self) -> Iterator[tuple[nn.Module, int]]:
        yield self.activation, self.down.in_features

    @property
    def by_unit(self) -> bool:
        """Whether a process can hold some of the hidden units, and give what these would give among the others."""
        core = self.activation
        works_apart = isinstance(core, WorksByUnit) and core.by_unit and not list(core.parameters())
        return works_apart and self.up.out_features == self.down.in_features
