"""An option's keys and values against the class that they are for.

Hydra knows that `attention.window` exists; only the constructor of the attention knows that it is a whole number. So
each node with a `_target_` is checked against its target's annotated signature: unknown keys with the nearest name,
values of the wrong type with the type that is wanted. What is out of range is the constructor's own to refuse.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import logging
import math
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from typing import Any, get_type_hints

from hydra.utils import get_object
from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from ablab.config.axes import Axis, load, replacement
from ablab.config.nearest import nearest
from ablab.config.schema import Node
from ablab.errors import UserError, one_line

_TRACKERS = {"aim", "mlflow"}  # for which there are options, and no extra of the package
_HYDRA_KEYS = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "_args_"})


def check_signature(name: str, node: Node, supplied: Collection[str] = ()) -> None:
    """Check the keys and values of `node`, the config at `name`, against the signature of its `_target_`.

    Args:
        supplied: parameters that the program gives, not the config.

    Raises:
        UserError: the target cannot be imported, a key is unknown or missing, or a value has the wrong type.
    """
    target = _import(name, node["_target_"])
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


@cache
def hints_of(target: str) -> dict[str, Any]:
    """The annotations of what a dotted name builds; none where it cannot be imported."""
    try:
        return _all_hints(_import("", target))
    except (UserError, ValueError, TypeError):
        return {}


def _all_hints(target: Any) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for function in reversed(_constructors(target)):
        hints |= _hints(function)
    return hints


def takes(name: str, node: Node, parameter: str) -> bool:
    """Whether the `_target_` of `node`, the config at `name`, names this parameter.

    Raises:
        UserError: the target cannot be imported.
    """
    return parameter in _parameters(_import(name, node["_target_"]))


def missing_package(error: BaseException) -> str | None:
    """The package for want of which `error` was raised, or None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            package = cause.name.split(".")[0]
            return package if find_spec(package) is None else None
        cause = cause.__cause__ or cause.__context__
    return None


def _import(name: str, target: object) -> Any:
    if not isinstance(target, str) or "." not in target:
        raise UserError(f"{name}._target_={_show(target)}: must be the dotted name of a class or function")
    hydra_log = logging.getLogger("hydra.utils")  # which would say the same at length
    muted, hydra_log.disabled = hydra_log.disabled, True
    try:
        found = get_object(target)
    except Exception as error:  # whatever importing somebody's module may raise
        raise UserError(f"{name}._target_: {_why_not(target, error)}") from error
    finally:
        hydra_log.disabled = muted
    if not callable(found):
        raise UserError(f"{name}._target_: {target} is neither a class nor a function")
    return found


def _why_not(target: str, error: Exception) -> str:
    """Why a dotted name cannot be imported: a package that is not installed, a misspelt name, or what its code says."""
    package, first = missing_package(error), target.split(".")[0]
    if package in _offered():
        return f"{target} needs {package}: pip install {package}"
    if package == first:
        return f"{target}: there is no module {first}{_meant(first, packages_distributions())}"
    if package is not None:
        return f"{target} needs the module {package}, which is not installed"
    parts = target.split(".")
    known = next(".".join(parts[:n]) for n in range(len(parts), -1, -1) if ".".join(parts[:n]) in sys.modules or not n)
    missing = target.removeprefix(known).lstrip(".").split(".")[0]
    module = sys.modules.get(known)
    if module is None or hasattr(module, missing) or not _says_missing(error, f"{known}.{missing}"):
        return f"{target} cannot be imported ({one_line(error)})"
    below = [each.name for each in pkgutil.iter_modules(getattr(module, "__path__", []))]
    names = [each for each in {*vars(module), *below} if not each.startswith("_")]
    return f"{known} has no {missing}{_meant(missing, names)}"


def _says_missing(error: Exception, module: str) -> bool:
    """Whether it is the module itself that was not found, and not what its code wanted or did."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError):
            return cause.name == module or cause.name is None or module.startswith(cause.name)
        cause = cause.__cause__ or cause.__context__
    return True


def _meant(wrong: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(wrong, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _offered() -> set[str]:
    """The packages that ablab can do with and without, by the names of their modules."""
    with contextlib.suppress(PackageNotFoundError):
        return _TRACKERS | {re.split(r"[^\w-]", line)[0].replace("-", "_").lower() for line in requires("ablab") or ()}
    return _TRACKERS


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    """By name, without the object itself; open-ended if the last of the constructors is."""
    if not inspect.isclass(target):
        return dict(inspect.signature(target).parameters)
    met: dict[str, inspect.Parameter] = {}
    open_ended = inspect.Parameter.VAR_KEYWORD
    constructors = _constructors(target)
    for function in constructors:
        last = function is constructors[-1]
        own = list(inspect.signature(function).parameters.values())[1:]
        met |= {p.name: p for p in own if p.name not in met and (last or p.kind is not open_ended)}
    return met


def _own_parameters(target: Any) -> set[str]:
    """Those of its constructors in its own package.

    What a base of another package asks for besides, the class may give it, as `defaults` of torch's Optimizer.
    """
    package = str(getattr(target, "__module__", "")).split(".")[0]
    functions = _constructors(target)
    own = [each for each in functions if str(getattr(each, "__module__", "")).split(".")[0] == package] or functions[:1]
    return {name for function in own for name in inspect.signature(function).parameters}


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


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raises UserError where a value, the one at `name`, is not of the annotated type, or a number beyond all sizes."""
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{name}: a number of {len(str(value))} digits is more than 2**63, and nothing has that size")
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
    except PydanticUserError:  # a model or dataclass brings a config of its own
        adapter = TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return
    forms = [value, tuple(value)] if isinstance(value, list) else [value]  # YAML has no tuples
    if not any(_is_valid(adapter, form) for form in forms):
        raise UserError(f"{name}={_show(value)}: must be {type_name(hint)}{_instead(name, value, hint)}")


def _instead(name: str, value: Any, hint: Any) -> str:
    """How to write what may have been meant by a value of the wrong type."""
    if isinstance(value, list) and "a list" not in type_name(hint):
        return f"; -m sweeps over several values, written {name}=A,B without brackets"
    if isinstance(value, bool | int | float) and str in (hint, *typing.get_args(hint)):
        return "; in quotes it is a text"
    return ""


def check_finite(name: str, value: Any) -> None:
    """Raises UserError for a number that is none, or has no end, in a value, the one at `name`, or anywhere in it."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            check_finite(f"{name}.{key}" if isinstance(value, dict) else f"{name}[{key}]", each)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}={value}: must be a finite number")


def _is_endless(default: Any) -> bool:
    """Whether the default of a setting says that it may have no end."""
    return isinstance(default, float) and math.isinf(default)


def _is_valid(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def _show(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def type_name(hint: Any) -> str:
    """A type as a user knows it."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    if hint in words:
        return words[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin is dict:
        return "dict"
    if origin is not None and arguments:
        return f"a list of {', '.join(type_name(a) for a in arguments if a is not Ellipsis)}"
    return getattr(hint, "__name__", str(hint))
