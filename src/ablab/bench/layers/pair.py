"""The sizes that all layers of a run share, and what the bench knows of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from ablab.config import conf_folder
from ablab.errors import UserError
from ablab.model.activation.stateless import SwiGLU
from ablab.model.spec import LayerSpec

DEVIATION = 0.06  # of the weights of matrices, so that what a layer gives is about as large as what it gets


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of all layers, in single precision on the processor.

    Raises:
        UserError: a size is out of its range.
    """

    batch: int = 1
    width: int = 256
    heads: int = 4
    experts: int = 16
    chosen: int = 4
    units: int = 128  # hidden units of an expert, which has a gate
    window: int = 128  # tokens that attention to compressed keys sees one by one
    keys: int = 64  # that an indexer picks

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UserError(f"--{name} {value}: must be at least 1")
        if self.chosen > self.experts:
            raise UserError(f"--chosen {self.chosen}: is more than there are, --experts {self.experts}")
        if self.width % (8 * self.heads):
            raise UserError(f"--width {self.width}: must be a multiple of 8 times --heads {self.heads}")

    def spec(self, length: int) -> LayerSpec:
        return LayerSpec(
            d_model=self.width, n_heads=self.heads, d_ff=self.width, layer_index=0, n_layers=1, max_length=length,
            causal=True, seed=0, bias=False,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A line of the tables, ready for one length."""

    name: str
    ours: bool
    call: Callable[[Tensor], Tensor]  # (B, T, width) -> the same shape
    parameters: tuple[Tensor, ...]
    comparable: bool = True  # whether it is to give what ours gives: it has the same weights


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Layers that are compared with each other.

    Args:
        ours: makes our own for a length.
        peers: make the others from ours, whose weights they get, by name.
        linear: whether time is to grow as the length.
        alike: the share of tokens at which all are to give the same; where keys are picked, two scores that are equal
            to rounding may be told apart in either way.
    """

    name: str
    ours: Callable[[Sizes, int], nn.Module]
    call: Callable[[Any, Sizes, int], Callable[[Tensor], Tensor]]  # of our layer
    peers: Mapping[str, Callable[[Any, Sizes, int], Layer]]
    linear: bool = False
    alike: float = 1.0


def option(axis: str, name: str, sizes: Sizes, length: int, **settings: Any) -> Any:
    """A layer of ours as its YAML has it, with random weights."""
    given = {"activation": SwiGLU} if axis == "feed_forward" else {}
    made = instantiate(OmegaConf.load(conf_folder() / axis / f"{name}.yaml"), **settings)(sizes.spec(length), **given)
    return randomised(made)


def randomised(layer: Any) -> Any:
    """The layer in evaluation, its matrices drawn at random; vectors are what they are at first."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim > 1:
                parameter.copy_(DEVIATION * torch.randn(parameter.shape, generator=generator))
    return layer.eval()


def model(name: str) -> Any:
    """The module of a published model's layers. Raises ImportError where the package is missing."""
    return import_module(f"transformers.models.{name}.modeling_{name}")


def copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Fill the first of each with the second."""
    with torch.no_grad():
        for into, value in pairs:
            into.copy_(value)


def peer(name: str, layer: Any, call: Callable[[Tensor], Tensor], *, comparable: bool = True) -> Layer:
    """Theirs, in evaluation."""
    parameters = tuple(layer.eval().parameters())
    return Layer(name=name, ours=False, call=call, parameters=parameters, comparable=comparable)
