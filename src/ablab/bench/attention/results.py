"""Measurements of each implementation in each pass at each length, and the file of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablab.bench.attention.cost import Times
from ablab.bench.attention.implementation import PASSES, Family, Implementation, Pass
from ablab.results.store import write_atomically


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Either measured or skipped, with the reason."""

    implementation: str
    ours: bool
    family: Family
    causal: bool
    pass_: Pass
    length: int
    times: Times | None = None
    peak_bytes: int | None = None
    flops: float | None = None  # that the definition needs
    skipped: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The object in the file."""
        found: dict[str, Any] = {
            "implementation": self.implementation,
            "ours": self.ours,
            "family": self.family,
            "pass": self.pass_,
            "length": self.length,
        }
        if self.times is None:
            return found | {"skipped": self.skipped}
        return found | {
            "seconds": self.times.median_s,
            "seconds_min": self.times.min_s,
            "seconds_max": self.times.max_s,
            "peak_bytes": self.peak_bytes,
        }


def cell(implementation: Implementation, pass_: Pass, length: int, **found: Any) -> Cell:
    """The cell of an implementation."""
    return Cell(
        implementation=implementation.name,
        ours=implementation.ours,
        family=implementation.family,
        causal=implementation.causal,
        pass_=pass_,
        length=length,
        **found,
    )


class Results:
    """All cells so far.

    Args:
        order: the names of the implementations, as tables and files are to list them.
    """

    def __init__(self, order: Sequence[str], cells: Iterable[Cell] = ()) -> None:
        self.order = list(order)
        self.cells = list(cells)

    def sorted(self) -> list[Cell]:
        """By length, pass and implementation."""
        return sorted(
            self.cells,
            key=lambda each: (each.length, PASSES.index(each.pass_), self.order.index(each.implementation)),
        )

    def of(self, implementation: str, pass_: Pass) -> dict[int, Cell]:
        """By length."""
        wanted = (implementation, pass_)
        return {each.length: each for each in self.sorted() if (each.implementation, each.pass_) == wanted}

    def seconds(self, implementation: str, pass_: Pass) -> dict[int, float]:
        """Medians, by length, where there are any."""
        return {n: each.times.median_s for n, each in self.of(implementation, pass_).items() if each.times is not None}

    def bytes(self, implementation: str, pass_: Pass) -> dict[int, int]:
        """Peak memory, by length, where there is any."""
        cells = self.of(implementation, pass_).items()
        return {n: each.peak_bytes for n, each in cells if each.peak_bytes is not None}

    @property
    def lengths(self) -> list[int]:
        return sorted({each.length for each in self.cells})

    @property
    def passes(self) -> list[Pass]:
        found = {each.pass_ for each in self.cells}
        return [pass_ for pass_ in PASSES if pass_ in found]

    @property
    def implementations(self) -> list[Cell]:
        """A cell of each."""
        found = {each.implementation: each for each in self.cells}
        return [found[name] for name in self.order if name in found]


def write(path: Path, cells: Sequence[Cell]) -> None:
    """A JSON array with one object per implementation, pass and length."""
    rows = ",\n".join(f" {json.dumps(each.to_dict(), allow_nan=False)}" for each in cells)
    write_atomically(path, f"[\n{rows}\n]\n" if cells else "[]\n")


def first_line(error: BaseException) -> str:
    """Say an error, or what it came from, in one line that is not too long."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    text = lines[0].strip() if lines else ""
    text = text if len(text) <= 160 else f"{text[:157]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
