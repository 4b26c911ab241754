"""Types of fields, checked as deep as they go, against what pydantic says of the same ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ablab.results.shape import misshapen

VALUES: list[Any] = [
    None, True, 3, -1.5, float("inf"), "min", "x", [], ["x"], [1], [1.5], [None], {}, {"x": 1}, {"x": 1.5},
    {"x": None}, {"x": [1.0]}, {"x": ["y"]}, {1: 1}, [{}], [{"x": 1}],
]  # fmt: skip
KINDS = [
    int, float, str, int | None, float | None, Literal["min", "max"], Any, list[str], list[float], dict[str, int],
    dict[str, float], dict[str, list[float]], dict[str, Any], dict[str, Any] | None, list[dict[str, Any]],
]  # fmt: skip


@dataclass
class Inner:
    size: int


@dataclass
class Outer:
    inner: Inner | None
    names: list[str] = field(default_factory=list)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_type_fits_what_it_fits_for_pydantic(kind: Any) -> None:
    @dataclass
    class Holder:
        value: Any

    Holder.__annotations__["value"] = kind
    strict = TypeAdapter(kind, config=ConfigDict(strict=True))
    fitting = []
    for value in VALUES:
        try:
            strict.validate_python(value)
            fitting.append(value)
        except ValidationError:
            pass
    assert [value for value in VALUES if misshapen(Holder(value)) is None] == fitting


def test_the_field_is_named_however_deep() -> None:
    assert misshapen(Outer(Inner(1), ["a"])) is None
    assert misshapen(Outer(None)) is None
    assert misshapen(Outer(Inner("1"))) == "inner.size is '1'"  # type: ignore[arg-type]
    assert misshapen(Outer({"size": 1})) == "inner is {'size': 1}"  # type: ignore[arg-type]
    assert misshapen(Outer(None, ["x" * 100, 1])) == "names is ['" + "x" * 55 + "..."  # type: ignore[list-item]
