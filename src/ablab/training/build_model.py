"""From a config and its task to the model: its components, its modalities, and the parametrisation of its width."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

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
from ablab.tasks.base import Modality, Task
from ablab.training.build_option import build_option, component, refused

_PARAMETRISATION = "parametrisation"


def build_model(config: RunConfig, task: Task, device: str = "cpu", max_length: int = 0) -> Transformer:
    """The model for a task, with its initial values. On the device "meta" it has shapes only, and takes no time.

    Args:
        max_length: as `model_factory` takes it.
    """
    return built(config, model_factory(config, task, max_length), device)


def model_factory(config: RunConfig, task: Task, max_length: int = 0) -> Callable[..., Transformer]:
    """What makes the model for a task, of components that are each made anew.

    Args:
        max_length: tokens of the sequences that its weights were learned from; 0: those of the task. It takes the
            longer of both, and remains the model that it was where the task's are longer.
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
    longer = {"trained_length": max_length} if 0 < max_length < task.max_length else {}
    factory = partial(  # of one piece, for who asks for its keywords
        option.func,
        **option.keywords,
        vocab_size=task.vocab_size,
        max_length=max(max_length, task.max_length),
        **longer,
        causal=task.causal,
        padding=task.padding,
        pooled=task.pooled,
        n_outputs=task.n_outputs,
        seed=config.seed,
        **{axis.name: component(axis, config) for axis in called_by("model")},
    )
    return _of_modalities(config, task, factory)


def of_length(config: RunConfig, factory: Callable[..., Transformer], length: int, trained: int) -> Transformer:
    """A model over tokens without values, on the meta device, for sequences of so many tokens.

    Args:
        trained: tokens of the longest sequence that its weights are learned from.
    """
    longer = {"trained_length": trained} if trained < length else {}
    return built(config, partial(factory, max_length=length, **longer), "meta")


def built(config: RunConfig, factory: Callable[..., Transformer], device: str = "cpu") -> Transformer:
    """What a factory makes on a device.

    Raises:
        UserError: components clash, or one refuses what it is given.
    """
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
