"""From a frozen config to the objects of a run. Every option is built by its own `_target_`; no name is ever tested."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from ablab.config.axes import Axis, called_by, load
from ablab.errors import UserError
from ablab.model.encoders import EncoderFactory, FeatureEncoder, TextEncoder
from ablab.model.modal_fusion.base import NOTHING_TO_FUSE
from ablab.model.multimodal import MultimodalTransformer
from ablab.model.protocols import NeedsModalities, misspelt
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer
from ablab.tasks.base import Modality, Task


def build_option(config: dict[str, Any], axis: str, **supplied: Any) -> Any:
    """What the config of one axis describes: an object, or a factory if the option says `_partial_`.

    Raises:
        UserError: its class refuses a value; the message names the axis.
    """
    try:
        return instantiate(config[axis], _convert_="all", **supplied)
    except InstantiationException as error:
        raise _refused(axis, error.__cause__ or error) from error


def build_task(config: dict[str, Any]) -> Task:
    """The task with its data loaded. Raises UserError if the data are missing or the settings cannot work."""
    task = build_option(config, "task", seed=config["seed"])
    try:
        task.setup("fit")
    except ValueError as error:
        raise _refused("task", error) from error
    return task


def build_model(config: dict[str, Any], task: Task, device: str = "cpu") -> Transformer:
    """The model for a task, with its initial values. On the device "meta" it has shapes only, and takes no time."""
    factory: partial[Transformer] = build_option(
        config,
        "model",
        vocab_size=task.vocab_size,
        max_length=task.max_length,
        causal=task.causal,
        padding=task.padding,
        pooled=task.pooled,
        n_outputs=task.n_outputs,
        seed=config["seed"],
        **{axis.name: component(axis, config) for axis in called_by("model")},
    )
    build = _of_modalities(config, task, factory)
    try:
        with torch.device(device):
            return build()
    except ClashError as clash:
        raise clashing(config, clash) from clash
    except ValueError as error:
        raise _refused("model", error) from error


def clashing(config: dict[str, Any], clash: ClashError) -> UserError:
    """What a user is told of options of two axes that do not work together."""
    one, other = (f"{axis}={config['axes'].get(axis)}" for axis in (clash.axis, clash.other))
    return UserError(f"{one} does not work with {other}: {clash.reason}; choose another of either")


def _of_modalities(config: dict[str, Any], task: Task, factory: partial[Transformer]) -> Callable[[], Transformer]:
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


def component(axis: Axis, config: dict[str, Any]) -> Callable[..., Any]:
    """The factory of an axis of the model, with the axis in front of what it refuses."""
    factory = build_option(config, axis.name)

    def build(*args: Any, **kwargs: Any) -> Any:
        try:
            made = factory(*args, **kwargs)
            _check_kind(made, axis)
        except (ValueError, TypeError) as error:
            raise _refused(axis.name, error) from error
        return made

    return build


def _check_kind(made: object, axis: Axis) -> None:
    """Raise TypeError for an option that is none of what the axis asks for, or means to offer what it misspells."""
    option: type = type(made)
    kinds = tuple(load(kind) for kind in axis.kinds)
    if kinds and not isinstance(made, kinds):
        raise TypeError(f"{option.__name__} is not an {' or '.join(axis.kinds)}")
    if found := misspelt(option, kinds):
        raise TypeError(f"nobody asks for {option.__name__}.{found[0]}; did you mean '{found[1]}'?")


def _refused(axis: str, error: BaseException) -> UserError:
    text = " ".join(str(error).split())
    named = text.startswith((f"{axis}.", f"{axis}=")) or isinstance(error, UserError)
    return UserError(text if named else f"{axis}: {text}")
