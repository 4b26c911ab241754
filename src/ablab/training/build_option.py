"""An option of an axis, built by its own `_target_`; what its class refuses is told with the axis in front."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from ablab.config import Node, RunConfig
from ablab.config.axes import Axis, load
from ablab.errors import UserError, named, one_line
from ablab.model.protocols import misspelt


def build_option(config: RunConfig, axis: str, **supplied: Any) -> Any:
    """What the config of one axis describes: an object, or a factory if the option says `_partial_`.

    Raises:
        UserError: its class refuses a value; the message names the axis.
    """
    node = config.options[axis]
    try:
        if node.get("_partial_") is True and not supplied:
            return _factory(node)
        return instantiate(node, _convert_="all", **supplied)
    except Exception as error:  # whatever a constructor may raise, somebody else's included
        known = isinstance(error, InstantiationException)
        raise refused(axis, error.__cause__ if known and error.__cause__ else error) from error


_FACTORIES: dict[str, partial[Any]] = {}  # of classes, by the node that describes them
_MOST = 1024


def _factory(node: Node) -> Any:
    """What Hydra makes of an option that says `_partial_`, by one instantiation for all that are alike.

    That is two thirds of making a small model, which a plan does for hundreds of variants. Hydra has allowed the class
    before it is called again. A class that another has taken the place of, in its module, is looked up anew.
    """
    key = repr(node)
    known = _FACTORIES.get(key)
    if known is None or get_object(node["_target_"]) is not known.func:
        made = instantiate(node, _convert_="all")
        if not (isinstance(made, partial) and isinstance(made.func, type)):
            return made
        if len(_FACTORIES) >= _MOST:
            _FACTORIES.clear()
        known = _FACTORIES[key] = partial(made.func, *made.args, **made.keywords)
    return partial(known.func, *known.args, **copy.deepcopy(known.keywords))  # nobody shares a list


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
