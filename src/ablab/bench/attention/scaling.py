"""How time grows with the length, from which length on an option pays, and how far ahead of its peers it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ablab.bench.attention.implementation import Pass
from ablab.bench.attention.results import Cell, Results
from ablab.bench.attention.torch_peers import BASELINE, BASELINE_BOTH_SIDES

Unit = Literal["time", "memory"]
UNITS: tuple[Unit, ...] = ("time", "memory")
FIT_FROM = 4096  # tokens; below, what does not grow with the length hides how the rest does


def exponent(seconds: Mapping[int, float]) -> float | None:
    """The slope of log time over log length from `FIT_FROM` on, by least squares; None with fewer than two lengths."""
    lengths = [length for length in sorted(seconds) if length >= FIT_FROM]
    if len(lengths) < 2:
        return None
    slope, _ = np.polyfit(np.log(lengths), np.log([seconds[length] for length in lengths]), 1)
    return float(slope)


@dataclass(frozen=True)
class Crossover:
    """From which length on something is faster than full attention.

    `kind` is "at", "below" (it is at every length that was measured; `length` is the shortest), or "never" (`length` is
    the longest).
    """

    kind: Literal["at", "below", "never"]
    length: float


def crossover(seconds: Mapping[int, float], full: Mapping[int, float]) -> Crossover | None:
    """The length beyond which `seconds` stay below those of full attention; None where no length has both.

    Between two lengths the ratio is taken to be a power of the length.
    """
    lengths = sorted(seconds.keys() & full.keys())
    if not lengths:
        return None
    ratios = [math.log(seconds[length] / full[length]) for length in lengths]
    slower = [i for i, ratio in enumerate(ratios) if ratio >= 0]
    if not slower:
        return Crossover("below", lengths[0])
    i = slower[-1]
    if i == len(lengths) - 1:
        return Crossover("never", lengths[-1])
    share = ratios[i] / (ratios[i] - ratios[i + 1])
    return Crossover("at", lengths[i] * (lengths[i + 1] / lengths[i]) ** share)


def baseline_of(implementation: Cell) -> str:
    """The full attention that it is to be compared with."""
    return BASELINE if implementation.causal else BASELINE_BOTH_SIDES


def peers_of(implementation: Cell, results: Results) -> list[str]:
    """Public implementations of the same family that look the same way, back only or to both sides."""
    return [
        each.implementation
        for each in results.implementations
        if not each.ours and (each.family, each.causal) == (implementation.family, implementation.causal)
    ]


@dataclass(frozen=True)
class Ahead:
    """The best peer at one length."""

    ratio: float  # the peer's measurement over ours
    peer: str


def ahead(implementation: Cell, pass_: Pass, results: Results, unit: Unit = "time") -> dict[int, Ahead]:
    """By length, the best peer, in time or in peak memory, at the lengths that ours and some peer have."""
    of: Callable[[str, Pass], Mapping[int, float]] = results.seconds if unit == "time" else results.bytes
    found: dict[int, Ahead] = {}
    peers = {peer: of(peer, pass_) for peer in peers_of(implementation, results)}
    for length, ours in of(implementation.implementation, pass_).items():
        theirs = {peer: each[length] for peer, each in peers.items() if length in each}
        if theirs and ours:
            best = min(theirs, key=lambda peer: theirs[peer])
            found[length] = Ahead(theirs[best] / ours, best)
    return found
