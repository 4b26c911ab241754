"""From a frozen config to the objects of a run. Every option is built by its own `_target_`; no name is ever tested."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from ablab.errors import UserError
from ablab.model.encoders.embedding import EncoderFactory
from ablab.model.encoders.features import FeatureEncoder
from ablab.model.encoders.text import TextEncoder
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer
from ablab.tasks.base import Modality, Task

# The axes whose options are factories that the model's blocks call.
COMPONENT_AXES = ("attention", "activation", "position", "layer_fusion", "modal_fusion")


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
        encoders={name: _encoder(each) for name, each in task.modalities.items()} or None,
        seed=config["seed"],
        **{axis: _named(axis, build_option(config, axis)) for axis in COMPONENT_AXES},
    )
    try:
        with torch.device(device):
            return factory()
    except ClashError as clash:
        raise clashing(config, clash) from clash
    except ValueError as error:
        raise _refused("model", error) from error


def clashing(config: dict[str, Any], clash: ClashError) -> UserError:
    """What a user is told of options of two axes that do not work together."""
    one, other = (f"{axis}={config['axes'].get(axis)}" for axis in (clash.axis, clash.other))
    return UserError(f"{one} does not work with {other}: {clash.reason}; choose another of either")


def _encoder(modality: Modality) -> EncoderFactory:
    if modality.features is not None:
        return partial(FeatureEncoder, length=modality.length, features=modality.features)
    assert modality.vocab_size is not None
    return partial(TextEncoder, length=modality.length, vocab_size=modality.vocab_size)


def _named(axis: str, factory: Any) -> Any:
    """The factory, with the axis in front of what it refuses."""

    def build(*args: Any, **kwargs: Any) -> Any:
        try:
            return factory(*args, **kwargs)
        except (ValueError, TypeError) as error:
            raise _refused(axis, error) from error

    return build


def _refused(axis: str, error: BaseException) -> UserError:
    text = " ".join(str(error).split())
    named = text.startswith((f"{axis}.", f"{axis}=")) or isinstance(error, UserError)
    return UserError(text if named else f"{axis}: {text}")
