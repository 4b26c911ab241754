"""Implementations made up for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ablab.bench.attention import definitions
from ablab.bench.attention.cost import Times
from ablab.bench.attention.implementation import Attention, Expected, Implementation, Pass
from ablab.bench.attention.results import Cell, Results


class Mean(Attention):
    """The mean of all values, which is full attention where all queries are 0."""

    def __init__(self, spoil: Callable[[Tensor], Tensor] = lambda out: out) -> None:
        self.spoil = spoil
        self.calls = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.calls += 1
        return self.spoil((0 * q @ k.transpose(-1, -2)).softmax(-1) @ v)

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        seen = definitions.everything(positions, q.shape[2], causal=False)
        return definitions.weighted(0 * q, k, v, positions, seen)


def fake(attention: Attention | Exception, name: str = "fake", **options: Any) -> Implementation:
    """One that is built as `attention`, or raises it."""

    def build(*_: object) -> Attention:
        if isinstance(attention, Exception):
            raise attention
        return attention

    return Implementation(name=name, ours=False, family="full", build=build, **options)


def cells(name: str, seconds: Mapping[int, float], *, pass_: Pass = "forward", **options: Any) -> list[Cell]:
    """Measured cells, by length; `bytes` may map lengths to peak memory."""
    memory: Mapping[int, int] = options.pop("bytes", {})
    rest: dict[str, Any] = {"ours": False, "family": "full", "causal": True} | options
    return [
        Cell(
            implementation=name,
            pass_=pass_,
            length=length,
            times=Times(value, value / 2, value * 2),
            peak_bytes=memory.get(length, 8),
            flops=1e6,
            **rest,
        )
        for length, value in seconds.items()
    ]


def results(*groups: Sequence[Cell]) -> Results:
    """All of them, in the order given."""
    found = [each for group in groups for each in group]
    return Results(list(dict.fromkeys(each.implementation for each in found)), found)
