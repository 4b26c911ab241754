"""Mechanism metrics and pictures: does each component do what it claims? Taken from a model at work, undisturbed.

Which watchers an axis has, and how its options are asked about fixed inputs, is in the table of axes
(`ablab.config.axes`). Mechanism metrics are called `<axis>/<name>`. Of an axis that is watched in each layer a metric
is the mean over the layers, or their extreme where its name ends in `_min` or `_max`; where a model has several layers,
each layer's own follows as `<axis>/<name>/layer_<index>`. A component may report parts of itself as `<name>/<part>`
("span/head_0"). Parts of different layers have nothing to do with one another, and are listed by layer alone:
`<axis>/<name>/layer_<index>/<part>`. Whatever a component tells of itself through `mechanism()` is among its axis's.

Components take part by what they offer, not by their names: a core without `visited` has no metrics on keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from ablab.config.axes import AXES, load
from ablab.errors import one_line
from ablab.model.initialisation import keyed_generator
from ablab.model.presence import Presence, kept
from ablab.model.protocols import Measured
from ablab.model.ranks import of_tp_ranks

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

NUMBERS = 4  # by which an output is told from others
Module = TypeVar("Module", bound=nn.Module)
Answer = TypeVar("Answer")


class Watcher:
    """Watches one component. As it is here it knows only what the component says of itself.

    Args:
        layer: None for a component of the model as a whole.
    """

    def __init__(self, axis: str, layer: int | None, module: nn.Module) -> None:
        self.axis, self.layer, self.module = axis, layer, module
        self.failed: Exception | None = None  # what ended the watching, and not the run
        self.presence: Presence | None = None  # of the passes that are watched

    def attach(self) -> list[RemovableHandle]:
        """Begin to watch."""
        return [self.module.register_forward_hook(self.guarded(self.hook), with_kwargs=True)]

    def guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        """Return the hook so that what it raises ends the watching, and not the forward pass."""

        def watch(*args: Any) -> None:
            try:
                if self.failed is None:
                    hook(*args)
            except Exception as error:  # of a component of anybody's
                self.failed = error

        return watch

    def kept(self, x: Tensor, *, dim: int = 1) -> tuple[Tensor, Tensor]:
        """x (B, T, ...) of the pass with zeros in place of padding, and how many of its numbers are tokens', float64.

        Args:
            dim: where x has its positions; its samples are in the first dimension.
        """
        return kept(x, None if self.presence is None else self.presence.missing(x, dim=dim))

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """See a forward pass of the component, with its arguments."""

    def metrics(self) -> dict[str, float]:
        """Name -> value, for what was seen. Every process of a distributed run must call it."""
        return _over_tp_ranks(self.module.mechanism()) if isinstance(self.module, Measured) else {}

    def picture(self) -> Tensor | None:
        """Return what was seen as grey values, uint8 (height, width), if it can be shown so."""
        return None


class MechanismProbe:
    """Watches a model between `attach` and `detach`. Attaching again starts afresh.

    In a distributed run the metrics are of all processes together, and `metrics` must be called in each of them.

    Args:
        pictured: also draw attention weights, for `pictures`.
        strict: raise what a component raises when it is asked; else it is noted, and ends no run.
    """

    def __init__(self, model: Transformer, *, pictured: bool = False, strict: bool = False) -> None:
        self._model, self._strict = model, strict
        self._pictured = pictured
        self._presence = Presence(model)
        self._watchers: list[Watcher] = []
        self._handles: list[RemovableHandle] = []
        self.failures: dict[str, str] = {}  # axis -> why it was not watched to the end

    def attach(self) -> None:
        self.detach()
        watches = {name: load(axis.mechanism) for name, axis in AXES.items() if axis.mechanism}
        self._watchers = [watcher for name, watch in watches.items() for watcher in self._made(name, watch)]
        for watcher in self._watchers:
            watcher.presence = self._presence
        self.look()

    def look(self) -> None:
        """Go on after `detach`, with what was seen before it."""
        self.detach()
        self._handles = [handle for watcher in self._watchers for handle in watcher.attach()]
        self._handles += self._presence.attach()

    def _made(self, axis: str, watch: Callable[..., Iterable[Watcher]]) -> list[Watcher]:
        try:
            return list(watch(self._model, self._pictured))
        except Exception as error:  # of a component of anybody's
            self._note(axis, error)
            return []

    def _asked(self, watcher: Watcher, question: Callable[[], Answer], otherwise: Answer) -> Answer:
        """The answer of a watcher; one that cannot give it is noted, and ends no run."""
        try:
            if watcher.failed is not None:
                raise watcher.failed
            return question()
        except Exception as error:  # of a component of anybody's
            self._note(watcher.axis, error)
            return otherwise

    def _note(self, axis: str, error: Exception) -> None:
        if self._strict:
            raise error
        self.failures[axis] = one_line(error)

    def detach(self) -> None:
        """Stop watching; what was seen stays available to `metrics` and `pictures`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def metrics(self) -> dict[str, float]:
        """The metrics of what the model has processed since `attach`; only a component's own before any of it."""
        of_model: dict[str, float] = {}
        of_layers: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        none: dict[str, float] = {}
        for watcher in self._watchers:
            for name, value in self._asked(watcher, watcher.metrics, none).items():
                if watcher.layer is None:
                    of_model[f"{watcher.axis}/{name}"] = value
                else:
                    of_layers[f"{watcher.axis}/{name}"][watcher.layer].append(value)
        layers = {name: {layer: joined(name, each) for layer, each in own.items()} for name, own in of_layers.items()}
        return _over_layers(layers, several=len(self._model.blocks) > 1) | of_model

    def pictures(self) -> dict[str, Tensor]:
        """Attention as pictures (`ablab.model.attention.probe`) by layer, "attention/layer_0", uint8 (height, width).

        Of the first sequence without padding that this process has seen: all its queries, or 256 spread evenly over
        it. Layers whose core does not tell its weights have none.
        """
        drawn = [(f"{each.axis}/layer_{each.layer}", self._asked(each, each.picture, None)) for each in self._watchers]
        return {name: picture for name, picture in drawn if picture is not None}


def joined(name: str, values: list[float]) -> float:
    """One metric of several layers, or of several parts of one: their mean, or their extreme where it is one."""
    if name.endswith("_min"):
        return min(values)
    return max(values) if name.endswith("_max") else fmean(values)


def _over_tp_ranks(metrics: dict[str, float]) -> dict[str, float]:
    """A component's own metrics, over the processes among which its heads or units are shared out."""
    each = of_tp_ranks(metrics)
    return {name: joined(name, [own[name] for own in each]) for name in metrics}


def _over_layers(layers: dict[str, dict[int, float]], *, several: bool) -> dict[str, float]:
    metrics = {
        name: joined(name, list(values.values())) for name, values in layers.items() if not (several and _part(name))
    }
    if several:
        for name, values in layers.items():
            metrics |= {_of_layer(name, layer): value for layer, value in values.items()}
    return metrics


def _part(name: str) -> str:
    """The part in "attention/span/head_0": "head_0"; "" for "attention/span_mean"."""
    return name.split("/", 2)[2] if name.count("/") > 1 else ""


def _of_layer(name: str, layer: int) -> str:
    axis, metric, *part = name.split("/", 2)
    return "/".join([axis, metric, f"layer_{layer}", *part])


@torch.no_grad()
def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """A few numbers for each component, "<axis>/layer_<i>" or "<axis>", equal for components of equal function.

    Trained weights differ between any two runs on a device that does not repeat its sums; a component's own function
    does not. So components are asked beside the model's weights, on inputs drawn from fixed seeds, in evaluation mode.
    """
    training = model.training
    model.eval()
    try:
        found = {
            f"{axis.name}/{place}" if place else axis.name: numbers
            for axis in AXES.values()
            if axis.probe_outputs
            for place, numbers in load(axis.probe_outputs)(model).items()
        }
    finally:
        model.train(training)
    return {name: numbers for name, numbers in found.items() if numbers}


def place_of(layer: int, block: int) -> str:
    """The name of a block among all blocks of a model, where a layer may have several."""
    return f"layer_{layer}" if block == layer else f"layer_{layer}/block_{block}"


def drawn(name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Normally distributed numbers, a function of the name and the shape, of the type and on the device of `like`."""
    return torch.randn(shape, generator=keyed_generator("responses", name)).to(like.device, like.dtype)


def answer(module: Module, *inputs: Tensor | None) -> Tensor:
    """What a module of drawn weights makes of inputs, which shows its own function.

    Each weight is a function of its name and shape; those of `module` stay as they are.
    """
    weights = {name: _drawn_weight(name, parameter) for name, parameter in module.named_parameters()}
    made: Tensor = functional_call(module, weights, inputs)
    return made


def _drawn_weight(name: str, parameter: Tensor) -> Tensor:
    scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1.0
    return scale * drawn(name, tuple(parameter.shape), parameter)


def projected(x: Tensor) -> list[float]:
    """A few random projections, each over the square root of the size, so that their size is that of the numbers."""
    x = x.detach().float().cpu().flatten()
    directions = torch.randn(NUMBERS, x.numel(), generator=keyed_generator("projections", x.numel()))
    numbers: list[float] = (directions @ x / x.numel() ** 0.5).tolist()
    return numbers
