"""What checks are made on: small models that have the component, or the usual option in its place, and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from ablab.certify.passes import Model, stir
from ablab.certify.target import Target, with_usual
from ablab.config import AXES, Axis, Node, RunConfig
from ablab.config.axes import called_by
from ablab.errors import UserError, one_line
from ablab.model.draws import key_draws
from ablab.model.initialisation import keyed_generator
from ablab.model.multimodal import FeatureEncoder, MultimodalTransformer, TextEncoder
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer
from ablab.study.planning.preflight import check_options
from ablab.tasks.base import Inputs
from ablab.training.build_option import component

VOCABULARY = 29
LONGEST = 320  # tokens that the models take
LONG = 272  # more than the options of the menu attend to in full
CLASSES = 7

Named = Mapping[str, nn.Module]


class Subject:
    """An option of an axis of the model.

    Attributes:
        axis: of which it is one.
        is_usual: it is the axis's default option, with its default settings.
        several: the model is one of several modalities, which gives one answer.
    """

    def __init__(self, target: Target) -> None:
        self.axis: Axis = target.axis
        self.config: RunConfig = target.config
        self.several = self.axis.caller == "multimodal"
        self._usual = with_usual(self.config, self.axis)
        self.is_usual = self.config.options[self.axis.name] == self._usual.options[self.axis.name]
        self._made: dict[tuple[Any, ...], Model] = {}
        self._check_surroundings()

    def _check_surroundings(self) -> None:
        """Raises UserError where what the user asks for beside the option fits no option: sizes, other components."""
        for axis in (AXES["model"], *called_by("model", "multimodal")):
            check_options(axis, self._usual.options)
        try:
            with torch.device("meta"):
                self.build(usual=True)
        except ClashError:  # of the usual option alone, which need not be the component's
            return
        except ValueError as error:
            raise UserError(one_line(error)) from error

    @property
    def node(self) -> Node:
        return self.config.options[self.axis.name]

    @cached_property
    def ways(self) -> tuple[bool, ...]:
        """Whether a model may be causal, and whether it may not; where it says that it cannot be one, the other."""
        if self.several:
            return (False,)
        try:
            self.model(causal=False)
        except (ValueError, UserError):
            return (True,)
        return (True, False)

    @cached_property
    def usual_name(self) -> str:
        """The axis's default option, as a user writes it."""
        return self._usual.chosen(self.axis.name)

    def build(
        self,
        *,
        usual: bool = False,
        keyed: bool = True,
        settings: Node | None = None,
        made: Callable[[], None] | None = None,
        **changes: Any,
    ) -> Model:
        """A new model in single precision, with its initial values.

        Args:
            usual: the axis's default option in the component's place.
            keyed: what draws in training draws as in a run.
            settings: of the component, in place of its own.
            made: called whenever a part of it has been made.
            changes: arguments of `Transformer`.
        """
        config = self._usual if usual else self.config
        if settings is not None:
            node = {**self.node, **settings}
            config = replace(config, options={**config.options, self.axis.name: node})
        sizes = {key: value for key, value in config.options["model"].items() if not key.startswith("_")}
        own = {"vocab_size": VOCABULARY, "max_length": LONGEST, "seed": config.seed, "causal": not self.several}
        parts = {axis.name: component(axis, config) for axis in called_by("model")}
        if made is not None and self.axis.name in parts:
            parts[self.axis.name] = _telling(parts[self.axis.name], made)
        if self.several:
            own |= {"pooled": True, "n_outputs": CLASSES}
        factory = partial(Transformer, **(sizes | own | parts | changes))
        model = self._joined(factory, config) if self.several else factory()
        if keyed:
            key_draws(model)
        return model

    def model(self, *, usual: bool = False, stirred: bool = True, **changes: Any) -> Model:
        """A model in double precision, for many to ask and nobody to change.

        Args:
            stirred: its weights are of the size of trained ones, so that gates that start shut are open.
        """
        key = (usual, stirred, *sorted(changes.items()))
        if key not in self._made:
            made = self.build(usual=usual, **changes).double()
            self._made[key] = stir(made) if stirred else made
        return self._made[key]

    def fresh(self, **changes: Any) -> Model:
        """The same as a copy of the caller's own, which no other call has gone through."""
        return stir(self.build(**changes).double())

    def own(self, model: Model) -> dict[str, nn.Module]:
        """The modules that the option has made, by their names in the model; none within another."""
        return dict(_outermost(self._found(model)))

    def own_parameters(self, model: Model) -> dict[str, nn.Parameter]:
        """The parameters of these modules, by their names in the model."""
        return {
            f"{name}.{own}": parameter
            for name, module in self.own(model).items()
            for own, parameter in module.named_parameters()
        }

    def inputs(self, batch: int = 3, length: int = LONG, seed: int = 0) -> Inputs:
        """Random ones, without padding."""
        generator = keyed_generator("inputs", seed)
        if not self.several:
            return torch.randint(VOCABULARY, (batch, length), generator=generator)
        return {
            "image": torch.randn(batch, 4, 6, generator=generator, dtype=torch.float64),
            "audio": torch.randn(batch, 3, 10, generator=generator, dtype=torch.float64),
            "text": torch.randint(0, 9, (batch, 5), generator=generator),
            "padding": torch.zeros(batch, 12, dtype=torch.bool),
        }

    def targets(self, inputs: Inputs, seed: int = 0) -> Tensor:
        """Random ones, for these inputs."""
        generator = keyed_generator("targets", seed)
        if isinstance(inputs, Tensor):
            return torch.randint(VOCABULARY, inputs.shape, generator=generator)
        return torch.randint(CLASSES, (len(inputs["text"]), 1), generator=generator)

    def _joined(self, factory: partial[Transformer], config: RunConfig) -> Model:
        encoders: dict[str, Callable[[int], nn.Module]] = {
            "image": partial(FeatureEncoder, length=4, features=6),
            "audio": partial(FeatureEncoder, length=3, features=10),
            "text": partial(TextEncoder, length=5, vocab_size=9),
        }
        fusions: dict[str, Any] = {axis.name: component(axis, config) for axis in called_by("multimodal")}
        return MultimodalTransformer(factory, encoders=encoders, **fusions)

    def _found(self, model: Model) -> Iterator[tuple[str, nn.Module]]:
        name = self.axis.name
        for path, module in model.named_modules():
            place = path.rpartition(".")[2]
            if name in ("position", "layer_fusion", "objective", "modal_fusion"):
                if path == name:
                    yield path, module
            elif name == "norm":
                if place in _NORMS and not isinstance(module, nn.Identity):
                    yield path, module
            elif name == "residual":
                if place in ("attention_residual", "feed_forward_residual") or path == "ends":
                    yield path, module
            elif place == name:
                yield path, module


_NORMS = ("attention_norm", "feed_forward_norm", "attention_added_norm", "feed_forward_added_norm", "norm")


def _outermost(found: Iterator[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    last: str | None = None
    for path, module in found:
        if last is None or not path.startswith(f"{last}."):
            last = path
            yield path, module


def _telling(factory: Callable[..., Any], made: Callable[[], None]) -> Callable[..., Any]:
    def make(*args: Any, **kwargs: Any) -> Any:
        part = factory(*args, **kwargs)
        made()
        return part

    return make
