"""From a config to the objects of a run. Every option is built by its own `_target_`; no name is ever tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from hydra.utils import instantiate
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ablab.config import RunConfig
from ablab.config.axes import called_by
from ablab.config.nearest import nearest
from ablab.errors import UserError, one_line
from ablab.model.modal_fusion.base import NOTHING_TO_FUSE
from ablab.model.multimodal import EncoderFactory, FeatureEncoder, MultimodalTransformer, TextEncoder
from ablab.model.parametrisation import Parametrisation
from ablab.model.protocols import ChecksLength, NeedsModalities, offering
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer
from ablab.results.record import Cost
from ablab.tasks.base import Modality, Task
from ablab.training.build_option import build_option, component, refused
from ablab.training.cost import count_active_parameters, count_parameters, flops_of
from ablab.training.inference import inference_costs

_PARAMETRISATION = "parametrisation"


@dataclass(frozen=True, kw_only=True)
class BuiltRun:
    """A run with all that its training takes, each made once, and when it is asked for first.

    Args:
        task: with its data loaded, and the seed of the config.
        counted: what is known of its cost from a run of the same model; None: it is counted here.
    """

    config: RunConfig
    task: Task
    counted: Cost | None = None
    _spare: list[Transformer] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, config: RunConfig, counted: Cost | None = None) -> BuiltRun:
        """The run of a config. Raises UserError if its data are missing or its task cannot work."""
        return cls(config=config, task=build_task(config), counted=counted)

    @cached_property
    def _model_factory(self) -> Callable[..., Transformer]:
        return model_factory(self.config, self.task)

    @cached_property
    def shapes(self) -> Transformer:
        """The model without values, which takes no time: for counting, and for checks."""
        return _built(self.config, self._model_factory, "meta")

    @cached_property
    def cost(self) -> Cost:
        """Parameters and FLOPs, counted before training; no FLOPs where they cannot be counted."""
        if self.counted is not None:
            return self.counted
        flops, uncounted = flops_of(self.shapes, self.task, self.build_model)
        samples = self.task.batch_size * self.config.trainer.accumulate_grad_batches
        counted = Cost(
            parameters=count_parameters(self.shapes),
            active_parameters=count_active_parameters(self.shapes),
            flops_per_step=None if flops is None else flops * samples,
            flops_uncounted=uncounted,
        )
        return replace(counted, **inference_costs(self.config, self.task, self.shapes, self._of_length))

    def _of_length(self, length: int) -> Transformer:
        """The model without values, for sequences of so many tokens."""
        return of_length(self.config, self._model_factory, length)

    @cached_property
    def optimizer(self) -> Callable[..., Optimizer]:
        """Makes the optimizer of parameters."""
        factory: Callable[..., Optimizer] = instantiate(self.config.options["optimizer"], _convert_="all")
        return factory

    @cached_property
    def schedule(self) -> Callable[[Optimizer], LRScheduler]:
        """Makes the schedule of an optimizer."""
        factory: Callable[[Optimizer], LRScheduler] = instantiate(self.config.options["schedule"], _convert_="all")
        return factory

    def build_model(self) -> Transformer:
        """The model with its initial values."""
        return self._spare.pop() if self._spare else _built(self.config, self._model_factory)

    def offer(self, model: Transformer) -> None:
        """Leave a model with its initial values to whoever asks for one next."""
        self._spare.append(model)

    def build_strategy(self) -> Any:
        """What Lightning's Trainer takes as `strategy`; each Trainer takes one of its own."""
        return build_strategy(self.config)


def build_strategy(config: RunConfig) -> Any:
    """What Lightning's Trainer takes as `strategy`. The option's `processes` are those of all nodes.

    Raises:
        UserError: it refuses a value.
    """
    return build_option(config, "strategy", processes=config.world_size)


def made_of(config: RunConfig) -> str:
    """Tell the options that a model is made of, and its task: runs that share them differ in their training alone."""
    names = ["task", "model", _PARAMETRISATION, *(axis.name for axis in called_by("model", "multimodal"))]
    return json.dumps([config.options.get(name) for name in names], sort_keys=True)


def build_task(config: RunConfig) -> Task:
    """The task with its data loaded. Raises UserError if the data are missing or the settings cannot work."""
    task: Task = build_option(config, "task", seed=config.seed)
    try:
        task.setup("fit")
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise refused("task", error) from error
    return task


def build_model(config: RunConfig, task: Task, device: str = "cpu", max_length: int = 0) -> Transformer:
    """The model for a task, with its initial values. On the device "meta" it has shapes only, and takes no time.

    Args:
        max_length: as `model_factory` takes it.
    """
    return _built(config, model_factory(config, task, max_length), device)


def model_factory(config: RunConfig, task: Task, max_length: int = 0) -> Callable[..., Transformer]:
    """What makes the model for a task, of components that are each made anew.

    Args:
        max_length: tokens that it must take, where those are more than the task's.
    """
    plain = _plain_factory(config, task, max_length)
    if _PARAMETRISATION not in config.options:  # of an earlier version
        return plain
    parametrisation: Parametrisation = build_option(config, _PARAMETRISATION)
    values = parametrisation.base_values(config.options["model"])
    if values is None:
        return plain
    base = _plain_factory(_at_base(config, values), task, max_length)
    return partial(_parametrised, parametrisation, plain, base)


def _parametrised(
    parametrisation: Parametrisation,
    factory: Callable[..., Transformer],
    base: Callable[..., Transformer],
    **changed: Any,
) -> Transformer:
    model = factory(**changed)
    try:
        with torch.device("meta"):
            shapes = base(**changed)
    except (UserError, ValueError) as error:
        raise UserError(f"parametrisation: there is no model of the base width ({one_line(error)})") from error
    parametrisation.apply(model, shapes)
    return model


def _at_base(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """The config of the model of the base width."""
    known = {f"{axis}.{key}" for axis, node in config.options.items() for key in node}
    for key in values:
        if key not in known:
            raise UserError(f"parametrisation.base.{key}: no such setting{nearest(key, known)}")
    return config.with_values(values)


def _plain_factory(config: RunConfig, task: Task, max_length: int) -> Callable[..., Transformer]:
    """What makes the model in the standard parametrisation."""
    option: partial[Transformer] = build_option(config, "model")
    factory = partial(  # of one piece, for who asks for its keywords
        option.func,
        **option.keywords,
        vocab_size=task.vocab_size,
        max_length=max(max_length, task.max_length),
        causal=task.causal,
        padding=task.padding,
        pooled=task.pooled,
        n_outputs=task.n_outputs,
        seed=config.seed,
        **{axis.name: component(axis, config) for axis in called_by("model")},
    )
    return _of_modalities(config, task, factory)


def of_length(config: RunConfig, factory: Callable[..., Transformer], length: int) -> Transformer:
    """A model over tokens without values, on the meta device, for sequences of so many tokens."""
    return _built(config, partial(factory, max_length=length), "meta")


def _built(config: RunConfig, factory: Callable[..., Transformer], device: str = "cpu") -> Transformer:
    try:
        with torch.device(device):
            model = factory()
        _check_lengths(model)
        return model
    except ClashError as clash:
        raise clashing(config, clash) from clash
    except Exception as error:  # sizes that no tensor can have, and what a component of the user's may raise
        raise refused("model", error) from error


def _check_lengths(model: Transformer) -> None:
    for _, part in offering(model, ChecksLength):
        try:
            part.check_length(model.max_length)
        except ValueError as error:
            raise UserError(str(error)) from error


def clashing(config: RunConfig, clash: ClashError) -> UserError:
    """What a user is told of options of two axes that do not work together."""
    one, other = config.chosen(clash.axis), config.chosen(clash.other)
    return UserError(f"{one} does not work with {other}: {clash.reason}; change one of the two")


def _of_modalities(config: RunConfig, task: Task, factory: partial[Transformer]) -> Callable[..., Transformer]:
    """The factory for the task's modalities; as it is for a task of tokens, which leave nothing to fuse."""
    if task.modalities:
        return partial(
            MultimodalTransformer,
            factory,
            encoders={name: _encoder(each) for name, each in task.modalities.items()},
            **{axis.name: component(axis, config) for axis in called_by("multimodal")},
        )
    for axis in called_by("multimodal"):
        option = build_option(config, axis.name)
        made = option.func if isinstance(option, partial) else option
        if isinstance(made, NeedsModalities) and made.needs_several:
            raise UserError(f"{axis.name}: {NOTHING_TO_FUSE}")
    return factory


def _encoder(modality: Modality) -> EncoderFactory:
    if modality.features is not None:
        return partial(FeatureEncoder, length=modality.length, features=modality.features)
    assert modality.vocab_size is not None
    return partial(TextEncoder, length=modality.length, vocab_size=modality.vocab_size)
