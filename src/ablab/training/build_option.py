"""An option of an axis, built by its own `_target_`; what its class refuses is told with the axis in front."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from ablab.config import RunConfig
from ablab.config.axes import Axis, load
from ablab.errors import UserError, named, one_line
from ablab.model.protocols import misspelt


def build_option(config: RunConfig, axis: str, **supplied: Any) -> Any:
    """What the config of one axis describes: an object, or a factory if the option says `_partial_`.

    Raises:
        UserError: its class refuses a value; the message names the axis.
    """
    try:
        return instantiate(config.options[axis], _convert_="all", **supplied)
    except Exception as error:  # whatever a constructor may raise, somebody else's included
        known = isinstance(error, InstantiationException)
        raise refused(axis, error.__cause__ if known and error.__cause__ else error) from error


def component(axis: Axis, config: RunConfig) -> Callable[..., Any]:
    """The factory of an axis of the model, with the axis in front of what it refuses."""
    factory = build_option(config, axis.name)

    def build(*args: Any, **kwargs: Any) -> Any:
        try:
            made = factory(*args, **kwargs)
            _check_kind(made, axis)
        except Exception as error:  # of somebody else's component
            raise refused(axis.name, error) from error
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


def refused(axis: str, error: BaseException) -> UserError:
    """What a user is told of an option that refuses a value, or that fails in its own code."""
    foreseen = isinstance(error, UserError | ValueError | TypeError | InstantiationException)
    text = one_line(error, longest=500) if foreseen else named(error)
    is_named = text.startswith((f"{axis}.", f"{axis}=")) or isinstance(error, UserError)
    return UserError(text if is_named else f"{axis}: {text}")
