"""Did the swap change what should have differed? From the components' responses to fixed inputs."""

from __future__ import annotations

import math

from ablab.analysis.pairing import Pairing
from ablab.config.axes import AXES
from ablab.config.identity import IDENTITY_EXCLUDES
from ablab.results.record import Record

GOVERNED = {axis.name: axis.governs for axis in AXES.values() if axis.governs}
_BESIDES = {"seed", "axes", "overrides", *IDENTITY_EXCLUDES}  # keys of a config that are no component
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6  # of single precision's rounding


def unchanged(pairing: Pairing) -> tuple[str, ...]:
    """What the two differ in by their configs and not by what they did, if that is all they differ in; else empty."""
    found: set[str] = set()
    for own, base in pairing.pairs:
        axes = _differing(own, base)
        if not axes or not axes <= GOVERNED.keys() or own.cost.parameters != base.cost.parameters:
            return ()
        if not all(_same(own, base, axis) for axis in axes):
            return ()
        found |= axes
    return tuple(GOVERNED[axis] for axis in GOVERNED if axis in found)


def sums_vary(pairing: Pairing) -> bool:
    """Whether equal computations may give unequal metrics: on a CPU they do not, and any difference is an effect."""
    return bool(pairing.pairs) and not any(
        record.machine.get("device", "cpu") == "cpu" for pair in pairing.pairs for record in pair
    )


def _differing(own: Record, base: Record) -> set[str]:
    return {
        key
        for key in own.config.keys() | base.config.keys()
        if key not in _BESIDES and own.config.get(key) != base.config.get(key)
    }


def _same(own: Record, base: Record, axis: str) -> bool:
    mine, theirs = (_of_axis(record, axis) for record in (own, base))
    return bool(mine) and len(mine) == len(theirs) and all(map(_close, mine, theirs))


def _of_axis(record: Record, axis: str) -> list[float]:
    named = sorted(name for name in record.responses if name.split("/")[0] == axis)
    return [number for name in named for number in record.responses[name]]


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
