"""For a key of a config: other values of its kind, by what it holds and by the annotation of what it is for."""

from __future__ import annotations

import typing
from typing import Any

from ablab.config.axes import load


def others(value: Any, hint: Any) -> list[Any]:
    """Values of the same kind, one of which should do."""
    literals = [each for kind in (hint, *typing.get_args(hint)) for each in _literals(kind) if each != value]
    if literals:
        return literals
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [each for each in (value * 2, value // 2, value + 1, value - 1, value * 4, 3, 0, 999) if each != value]
    if isinstance(value, float):
        return [each for each in (value / 2, value * 1.5, 0.5, 0.25, 0.0, 0.9, value * 4) if each != value]
    if isinstance(value, list):
        return [[each * 0.5 for each in value], [each * 2 for each in value], [0.8, 0.7], [16], [1]]
    return [1, 2, 3, 4, 0.5, 50, 0.1, True]


def _literals(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


def hint_of(node: Any, key: str) -> Any:
    """The annotation of a key of an option, in its own constructor or in that of a base; None where it has none."""
    target = load(node["_target_"])
    bases = target.__mro__ if isinstance(target, type) else []
    made_by = [vars(cls)["__init__"] for cls in bases if "__init__" in vars(cls)] or [target]
    return next((hints[key] for each in made_by if key in (hints := typing.get_type_hints(each))), None)
