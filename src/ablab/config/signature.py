"""An option's keys and values against the class that they are for.

Hydra knows that `attention.window` exists; only the constructor of the attention knows that it is a whole number. So
each node with a `_target_` is checked against its target's annotated signature: unknown keys with the nearest name,
values of the wrong type with the type that is wanted. What is out of range is the constructor's own to refuse.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, get_type_hints

from ablab.config.axes import Axis, load, replacement
from ablab.config.nearest import nearest
from ablab.config.schema import Node
from ablab.config.targets import import_target
from ablab.config.value_types import check_finite, check_type, once_each
from ablab.errors import UserError

_HYDRA_KEYS = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "_args_"})


def check_signature(name: str, node: Node, supplied: Collection[str] = ()) -> None:
    """Check the keys and values of `node`, the config at `name`, against the signature of its `_target_`.

    Args:
        supplied: parameters that the program gives, not the config.

    Raises:
        UserError: the target cannot be imported, a key is unknown or missing, or a value has the wrong type.
    """
    target = import_target(name, node["_target_"])
    parameters = _parameters(target)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    wanted = {
        key: p
        for key, p in parameters.items()
        if key not in supplied and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    given = {key: value for key, value in node.items() if key not in _HYDRA_KEYS}
    for key in given:
        if instead := replacement(f"{name}.{key}"):
            raise UserError(f"{name}.{key}: is an axis of its own now; write {instead}")
        if key not in wanted and not open_ended:
            raise UserError(
                f"{name}.{key}: no such setting of {name}{nearest(key, wanted, see=f'ablab --cfg job -p {name}')}"
            )
    own = _own_parameters(target)
    if "_args_" not in node:
        for key, parameter in wanted.items():
            first = next(iter(parameters)) == key and "_partial_" in node  # what a factory is called with
            if parameter.default is parameter.empty and key in own and key not in given and not first:
                raise UserError(f"{name}.{key} must be given: add {name}.{key}=... to the command")
    hints = _all_hints(target)
    for key, value in given.items():
        if key in hints and not (isinstance(value, dict) and "_target_" in value):  # which builds what is wanted
            check_type(f"{name}.{key}", value, hints[key])
        if not _is_endless(getattr(parameters.get(key), "default", None)):
            check_finite(f"{name}.{key}", value)


def _is_endless(default: Any) -> bool:
    """Whether the default of a setting says that it may have no end."""
    return isinstance(default, float) and math.isinf(default)


def with_floats(axis: Axis, node: Node) -> Node:
    """The option of an axis, or its several, with 1.0 for 1 where a setting is a float: they are one value.

    What cannot be imported stays as it is: `check_signature` says so.
    """
    if axis.several:
        return {key: _with_floats(each, {}) if isinstance(each, dict) else each for key, each in node.items()}
    own = get_type_hints(load(axis.read_as)) if axis.read_as else {}
    return _with_floats(node, own)


def _with_floats(node: Node, own: Mapping[str, Any]) -> Node:
    hints = {**hints_of(str(node.get("_target_"))), **own}
    made = {key: _as_float(value, hints[key]) if key in hints else value for key, value in node.items()}
    return node if all(made[key] is value for key, value in node.items()) else made  # runs share their options


def _as_float(value: Any, hint: Any) -> Any:
    """The value as a float where the annotation has floats and no whole numbers; of a list each of its values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if int in arguments:
            return value
        return next((made for each in arguments if (made := _as_float(value, each)) is not value), value)
    if isinstance(value, list) and arguments:
        made = [_as_float(each, arguments[0]) for each in value]
        return value if all(one is other for one, other in zip(made, value, strict=True)) else made
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if hint is float and whole and abs(value) < 2**53 else value


def hints_of(target: str) -> dict[str, Any]:
    """The annotations of what a dotted name builds; none where it cannot be imported."""
    try:
        return _all_hints(import_target("", target))
    except (UserError, ValueError, TypeError):
        return {}


@once_each
def _all_hints(target: Any) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for function in reversed(_constructors(target)):
        hints |= _hints(function)
        hints |= {name: p.annotation for name, p in (_unpacked(function) or {}).items()}
    return hints


def takes(name: str, node: Node, parameter: str) -> bool:
    """Whether the `_target_` of `node`, the config at `name`, names this parameter.

    Raises:
        UserError: the target cannot be imported.
    """
    return parameter in _parameters(import_target(name, node["_target_"]))


def settings_of(target: Any) -> dict[str, inspect.Parameter]:
    """What a class or function takes, by name, those of its bases included."""
    return dict(_parameters(target))


@once_each
def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    """By name, without the object itself; open-ended if the last of the constructors is.

    Keywords that a constructor hands on as `Unpack[Settings]` are those of `Settings`, whoever takes them.
    """
    if not inspect.isclass(target):
        return dict(inspect.signature(target).parameters)
    met: dict[str, inspect.Parameter] = {}
    named: Mapping[str, inspect.Parameter] | None = None  # what the constructors before hand on, where they say so
    open_ended = inspect.Parameter.VAR_KEYWORD
    constructors = _constructors(target)
    for function in constructors:
        last = function is constructors[-1]
        own = list(inspect.signature(function).parameters.values())[1:]
        met |= {
            p.name: p
            for p in own
            if p.name not in met
            and (last or p.kind is not open_ended)
            and (named is None or p.name in named or p.kind is open_ended)
        }
        handed = _unpacked(function)
        named = named if handed is None else handed
    return met | {name: p for name, p in (named or {}).items() if name not in met}


def _unpacked(function: Any) -> dict[str, inspect.Parameter] | None:
    """The keywords that a function takes as `Unpack` of a typed dictionary; None where it takes none in this way."""
    handed = next((p for p in inspect.signature(function).parameters.values() if p.kind is p.VAR_KEYWORD), None)
    hint = _hints(function).get(handed.name) if handed else None
    if typing.get_origin(hint) is not typing.Unpack:
        return None
    (settings,) = typing.get_args(hint)
    kind, no_default = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    return {
        name: inspect.Parameter(
            name, kind, default=no_default if name in settings.__required_keys__ else None, annotation=each
        )
        for name, each in get_type_hints(settings).items()
    }


@once_each
def _own_parameters(target: Any) -> set[str]:
    """Those of its constructors in its own package.

    What a base of another package asks for besides, the class may give it, as `defaults` of torch's Optimizer.
    """
    package = str(getattr(target, "__module__", "")).split(".")[0]
    functions = _constructors(target)
    own = [each for each in functions if str(getattr(each, "__module__", "")).split(".")[0] == package] or functions[:1]
    return {name for each in own for name in (*inspect.signature(each).parameters, *(_unpacked(each) or ()))}


def _constructors(target: Any) -> list[Any]:
    """The function; or of a class its constructor, and those of its bases that it hands its other keywords on to."""
    if not inspect.isclass(target):
        return [inspect.unwrap(target)]
    found: list[Any] = []
    for cls in target.__mro__:
        if "__init__" in vars(cls) and cls is not object:
            function = inspect.unwrap(vars(cls)["__init__"])
            found.append(function)
            kinds = [p.kind for p in inspect.signature(function).parameters.values()]
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                break
    return found or [inspect.unwrap(target.__init__)]


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:  # names that exist for type checkers only
        return {}
