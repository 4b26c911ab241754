"""Fair tuning in a sweep: which settings are chosen for each variant, and among which values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from ablab.config.axes import AXES
from ablab.config.overrides import canonical
from ablab.config.value_types import is_number
from ablab.errors import UserError

RATE = "optimizer.lr"
# What is learned, where it is computed and what is kept of it are no settings that a variant may prefer.
TUNABLE = tuple(axis for axis in AXES if axis not in ("task", "strategy", "logger", "callbacks"))
_NOT_TUNED = {"trainer.max_steps": "every variant trains for as long; tune.max_steps is that of the tuning runs"}
Scalar = float | int | bool | str | None


@dataclass(kw_only=True)
class TuneConfig:
    """What every variant of a sweep is tuned over, with the same budget.

    Any scalar of an axis may stand beside these keys, `tune.optimizer.weight_decay=[0,0.1]`.

    Raises:
        UserError: a value out of range.
    """

    lr: list[float] | None = None  # short for tune.optimizer.lr; None: every variant trains with optimizer.lr
    seeds: list[int] = field(default_factory=lambda: [1000, 1001])  # must not be among those that are compared
    max_steps: int | None = None  # of the tuning runs; None: as many as are compared
    extend: int = 2  # steps by which a grid is extended at either end while the best lies there
    trials: int | None = None  # points of the grids that are tried; None: all of them; 0: nothing is tuned

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"tune.max_steps={self.max_steps}: must be at least 1")
        if self.extend < 0:
            raise UserError(f"tune.extend={self.extend}: must be at least 0, which extends no grid")
        if self.trials is not None and (self.trials < 0 or self.trials == 1):
            raise UserError(f"tune.trials={self.trials}: must be at least 2, or 0: nothing is tuned")

    @property
    def grids(self) -> dict[str, list[Scalar]]:
        """By dotted key the values to choose among, numbers in ascending order; empty where nothing is tuned.

        Raises:
            UserError: no list of two different values, or a key that is not tuned.
        """
        if self.trials == 0:
            return {}
        nodes = {axis: vars(self).get(axis) or {} for axis in TUNABLE}
        found = {key: _grid(key, values) for axis, node in nodes.items() for key, values in _leaves(axis, node)}
        if self.lr is None:
            return found
        if RATE in found:
            raise UserError(f"tune.lr is short for tune.{RATE}, which is given, too: leave one of them out")
        return {RATE: _grid(RATE, self.lr)} | found

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data, without the axes of which nothing is tuned."""
        return {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if key not in TUNABLE or value not in ({}, None)
        }


# As the schema of the config has it: open below each axis, where any key may stand.
TuneSchema = make_dataclass(
    "TuneSchema",
    [(axis, Any, field(default_factory=dict)) for axis in TUNABLE],
    bases=(TuneConfig,),
    kw_only=True,
)
TuneSchema.__module__ = __name__  # where pickle looks for it


def _leaves(key: str, node: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        raise UserError(f"tune.{key}={canonical(node)}: names no setting; write tune.{key}.KEY=[...]")
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(f"{key}.{name}", value)
        else:
            yield f"{key}.{name}", value


def said(key: str) -> str:
    """The key as the command line has it: tune.lr."""
    return "tune.lr" if key == RATE else f"tune.{key}"


def _grid(key: str, values: Any) -> list[Scalar]:
    if why := _NOT_TUNED.get(key):
        raise UserError(f"{said(key)}: {why}")
    shown, rate = f"{said(key)}={canonical(values)}", key == RATE
    several = isinstance(values, list) and len(values) > 1 and len(set(map(canonical, values))) == len(values)
    if rate and not (several and all(_is_finite(each) and each > 0 for each in values)):
        raise UserError(f"{shown}: must be a list of at least two different positive numbers")
    if not several or not all(each is None or isinstance(each, float | int | bool | str) for each in values):
        raise UserError(f"{shown}: must be a list of at least two different values, such as [0,0.1]")
    if not all(map(_is_finite, values)):
        return list(values)
    if rate or any(isinstance(each, float) for each in values):
        return [*sorted(map(float, values))]
    return sorted(values)


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
