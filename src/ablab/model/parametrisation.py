"""The axis `parametrisation`: how initial values, multipliers and learning rates depend on the width of the model.

In the maximal update parametrisation (Yang and Hu 2021, "Tensor Programs IV"; Yang et al. 2022, "Tensor Programs V",
arXiv 2203.03466, tables 3 and 8) every layer learns at a speed that does not depend on the width, so that the best
learning rate of a narrow model is that of a wide one. Everything here is relative to a base width, at which nothing
differs from the standard.

Which dimensions of a parameter grow with the width is seen by comparing its shape with that in the model of the base
width, so that a component needs no code for it. Which of them it sums over, its fan-in, is the second dimension, as in
a linear layer; embeddings, vectors and stacks of matrices are known, and others say it (`SumsOver`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ablab.errors import UserError
from ablab.model.mechanism import Watcher
from ablab.model.position import Position
from ablab.model.protocols import InitialisedByFanIn, ScalesQueries, StacksMatrices, SumsOver, offering
from ablab.model.ranks import sum_over_ranks
from ablab.model.spec import require_at_least

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

_GROWN = "_grown"  # where a module has the growth of its own parameters


@dataclass(frozen=True, order=True)
class Growth:
    """How many times as large a parameter is as at the base width.

    Attributes:
        fan_in: in the dimensions that are summed over; 1 where none is, or none grows.
        fan_out: in all others.
        longest: in the longer side of its matrices.
    """

    fan_in: float = 1.0
    fan_out: float = 1.0
    longest: float = 1.0

    @property
    def initial(self) -> float:
        """The standard deviation of initial values over that at the base width, where these do not know the width.

        What a sum over more terms gives must stay as large: of independent values it grows with the root of their
        number. Values that are read by a fixed number of outputs come to agree with their inputs, and then it grows
        with the number itself (table 3, output weights).
        """
        return 1 / (self.fan_in if self.fan_out == 1 else math.sqrt(self.fan_in))


class Parametrisation:
    """The standard: initial values and learning rates are what they are at every width."""

    def base_values(self, model: Mapping[str, Any]) -> dict[str, Any] | None:
        """The settings of the model of the base width by their dotted keys; None where there is none.

        Args:
            model: the settings of the model itself.
        """
        return None

    def apply(self, model: Transformer, base: Transformer) -> None:
        """Make a model with initial values, in place, what it is in this parametrisation.

        Args:
            base: the model of the base width; shapes are enough.
        """


@dataclass(frozen=True)
class MaximalUpdate(Parametrisation):
    """The maximal update parametrisation.

    Initial values are the standard's times a factor, so that they depend on the seed and the parameter's name as ever.
    Scores of attention go by 1 / head size in place of its root, and logits by 1 / width (table 8), both of them
    relative to the base. How learning rates follow is a matter of the optimizer: `ablab.training.optimizers.widths`.

    Args:
        base_width: d_model of the base, at least 1; a multiple of `base_head_size`.
        base_head_size: d_model / n_heads of the base, which has as many heads of queries to one of keys as the model.
        base: further settings that differ in the base, by their dotted keys.

    Raises:
        ValueError: a size is out of its range.
    """

    base_width: int = 64
    base_head_size: int = 16
    base: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_at_least(1, "parametrisation.base_width", self.base_width)
        require_at_least(1, "parametrisation.base_head_size", self.base_head_size)
        if self.base_width % self.base_head_size:
            raise ValueError(
                f"parametrisation.base_head_size={self.base_head_size} does not divide "
                f"parametrisation.base_width={self.base_width}: choose a divisor"
            )

    def base_values(self, model: Mapping[str, Any]) -> dict[str, Any]:
        heads = self.base_width // self.base_head_size
        of_keys, hidden = model.get("n_kv_heads"), model.get("d_ff")
        if of_keys is not None:
            of_keys = heads // math.gcd(heads, max(1, model["n_heads"] // of_keys))
        if hidden is not None:
            hidden = max(1, round(hidden * self.base_width / model["d_model"]))
        sizes = {"d_model": self.base_width, "n_heads": heads, "n_kv_heads": of_keys, "d_ff": hidden}
        return {f"model.{name}": value for name, value in sizes.items()} | dict(_flat(self.base))

    @torch.no_grad()
    def apply(self, model: Transformer, base: Transformer) -> None:
        done: set[int] = set()
        for place, module in model.named_modules():
            grown = {name: _growth(model, base, place, name) for name, _ in module.named_parameters(recurse=False)}
            setattr(module, _GROWN, grown)
            for name, growth in grown.items():
                parameter = module.get_parameter(name)
                if id(parameter) not in done and not parameter.is_meta:
                    _scale(parameter, growth.initial * _own(module, growth))
                done.add(id(parameter))
        theirs = dict(offering(base, ScalesQueries))
        for place, layer in offering(model, ScalesQueries):
            if layer.query_size:
                layer.query_factor = math.sqrt(theirs[place].query_size / layer.query_size)
        model.output_factor = base.head.in_features / model.head.in_features


def _flat(settings: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted keys, which may be written so, or as mappings in each other."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def growths(model: nn.Module) -> dict[int, Growth]:
    """The growth of each parameter, by identity; none in the standard parametrisation."""
    found: dict[int, Growth] = {}
    for module in model.modules():
        for name, growth in getattr(module, _GROWN, {}).items():
            if (parameter := getattr(module, name, None)) is not None:
                found.setdefault(id(parameter), growth)
    return found


def _scale(parameter: Tensor, factor: float) -> None:
    if factor != 1:
        parameter.mul_(factor)


def _own(module: nn.Module, growth: Growth) -> float:
    """What is taken back where the values that a component draws have become smaller with the fan-in by themselves."""
    follows = isinstance(module, InitialisedByFanIn) and module.initialised_by_fan_in
    return math.sqrt(growth.fan_in) if follows else 1.0


def _growth(model: Transformer, base: Transformer, place: str, name: str) -> Growth:
    """Of a parameter of the module at `place`."""
    module = model.get_submodule(place)
    own = module.get_parameter(name).shape
    try:
        theirs = base.get_submodule(place).get_parameter(name).shape
    except AttributeError:
        theirs = torch.Size()
    if len(own) != len(theirs):
        raise UserError(
            f"parametrisation.base_width: the model of that width has no {place}.{name} like this one's, so that what "
            "grows with the width cannot be seen: choose a base that has the same parts"
        )
    summed = _summed_over(module, name, len(own)) if module is not model.head else ()
    ratios = [a / b for a, b in zip(own, theirs, strict=True)]
    fan_in = math.prod(ratios[i] for i in summed)
    return Growth(fan_in, math.prod(ratios) / fan_in, max(own[-2:], default=1) / max(theirs[-2:], default=1))


def _summed_over(module: nn.Module, name: str, dimensions: int) -> tuple[int, ...]:
    """The dimensions of a parameter that its fan-in is made of. The head's are none: `output_factor` sees to it."""
    if isinstance(module, SumsOver) and name in module.summed_over:
        return module.summed_over[name]
    if isinstance(module, nn.Embedding | Position) or dimensions < 2:
        return ()
    if isinstance(module, StacksMatrices) and module.stacks_matrices:
        return (1,) if dimensions == 3 else ()
    return tuple(range(1, dimensions))


class SizeWatcher(Watcher):
    """Measures how large what leaves a block is."""

    def __init__(self, layer: int, module: nn.Module, *, device: torch.device) -> None:
        super().__init__("parametrisation", layer, module)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # squares, and numbers

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        own, numbers = self.kept(output)
        self.sums += torch.stack([own.float().square().sum().double(), numbers])

    def metrics(self) -> dict[str, float]:
        """`size`: the root mean square of the stream behind a block, which does not depend on the width if the
        parametrisation does what it claims."""
        squares, numbers = sum_over_ranks(self.sums.clone()).tolist()
        return {"size": math.sqrt(squares / numbers)} if numbers else {}


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """Every block of a model in another parametrisation than the standard."""
    if growths(model):
        for layer, block in model.layers():
            yield SizeWatcher(layer, block, device=model.head.weight.device)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """Multipliers, and how parameters have grown: the same of two parametrisations that do the same."""
    of_queries = [layer.query_factor for _, layer in offering(model, ScalesQueries)]
    grown = growths(model).values()
    logs = [sum(math.log(getattr(each, name)) for each in grown) for name in ("initial", "fan_in", "fan_out")]
    return {"": [model.output_factor, *of_queries, *logs]}
