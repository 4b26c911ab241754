"""Values of the config against the annotated types that they are for, in the words of those who write YAML."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeGuard, TypeVar

from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from ablab.errors import UserError

Found = TypeVar("Found")


def once_each(find: Callable[[Any], Found]) -> Callable[[Any], Found]:
    """Keep what a function finds of a class or a type, which nobody changes: each run of a study asks for it again.

    Of what cannot be a key it is found each time.
    """
    kept = lru_cache(maxsize=1000)(find)

    @wraps(find)
    def found(of: Any) -> Found:
        try:
            hash(of)
        except TypeError:
            return find(of)
        return kept(of)

    return found


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raises UserError where a value, the one at `name`, is not of the annotated type, or a number beyond all sizes."""
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{name}: a number of {len(str(value))} digits is more than 2**63, and nothing has that size")
    adapter = _adapter(hint)
    if adapter is None:
        return
    forms = [value, tuple(value)] if isinstance(value, list) else [value]  # YAML has no tuples
    if not any(_is_valid(adapter, form) for form in forms):
        listed = f"; write {name}=[{value}]" if _is_valid(adapter, [value]) else ""
        raise UserError(f"{name}={shown(value)}: must be {type_name(hint)}{listed or _instead(name, value, hint)}")


@once_each
def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """What tells whether a value is of the type; None where pydantic cannot."""
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
    except PydanticUserError:  # a model or dataclass brings a config of its own
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return None


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


def _is_valid(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is one to count with: true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value as YAML writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def type_name(hint: Any) -> str:
    """A type as a user knows it."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if hint in words:
        return words[hint]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin is dict:
        return "dict"
    if origin is not None and arguments:
        return f"a list of {', '.join(type_name(a) for a in arguments if a is not Ellipsis)}"
    return getattr(hint, "__name__", str(hint))
