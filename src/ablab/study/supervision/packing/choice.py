"""How many runs share a GPU, from trials with 1, 2, 4, ... of them side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEAST_GAIN = 1.1  # twice as many runs must get so many times as much done together, or they are too many
MEMORY_SHARE = 0.9  # of a device's memory may be in use: evaluations and other variants may take more than was seen


@dataclass(frozen=True, kw_only=True)
class Level:
    """So many runs side by side on one device, measured."""

    runs: int
    steps_per_second: float  # of all of them together
    used_bytes: int | None = None  # of the device's memory at most, by everything on it; None: not known


Trial = Callable[[int], Level | str]  # with so many runs; a text says why they could not run side by side


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of a device."""

    total_bytes: int
    idle_bytes: int  # in use before any run, by others

    def room_for(self, levels: Sequence[Level]) -> int | None:
        """How many runs fit into it, as the hungriest level needs it; None where no level knows."""
        each = [(level.used_bytes - self.idle_bytes) / level.runs for level in levels if level.used_bytes is not None]
        if not each:
            return None
        free = MEMORY_SHARE * self.total_bytes - self.idle_bytes
        return int(min(free // max(*each, 1.0), 2**31)) if free > 0 else 0


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How many runs are to share a device, and why no more."""

    runs: int
    reason: str
    levels: tuple[Level, ...] = ()

    def sentence(self, memory: Memory | None = None) -> str:
        """Say what was measured, in a line."""
        found = ", ".join(f"{level.runs}: {level.steps_per_second:.3g}" for level in self.levels)
        measured = f"; steps a second by runs side by side: {found}" if found else ""
        used = [level.used_bytes / 2**30 for level in self.levels if level.runs == self.runs and level.used_bytes]
        taken = f"; {used[-1]:.1f} of {memory.total_bytes / 2**30:.1f} GiB" if used and memory else ""
        each = "1 run has a device for itself" if self.runs == 1 else f"{self.runs} runs share a device"
        return f"{each} ({self.reason}{measured}{taken})"


def pack(trial: Trial, most: int, memory: Memory | None) -> Packing:
    """Try 1, 2, 4, ... runs side by side, and choose the number beyond which more of them get no more done.

    Args:
        trial: tries so many.
        most: runs that there are for a device, or that it can have.
        memory: of the device; None where it is not known, and running out of it is what ends the trials.
    """
    if most < 2:
        return Packing(runs=1, reason="there are no more runs than devices")
    levels: list[Level] = []
    runs = 1
    while True:
        found = trial(runs)
        if isinstance(found, str):
            return _chosen(levels, f"{runs} side by side failed: {found}" if levels else f"a trial failed: {found}")
        if levels and not _pays(levels[-1], found):
            return Packing(runs=levels[-1].runs, reason=f"{runs} get no more done", levels=(*levels, found))
        levels.append(found)
        room = memory.room_for(levels) if memory else None
        if runs >= most:
            return _chosen(levels, "there are no more runs")
        if room is not None and room <= runs:
            return _chosen(levels, "there is no memory for more")
        runs = min(2 * runs, most, *([] if room is None else [room]))


def _pays(fewer: Level, more: Level) -> bool:
    """Whether so many more get enough done for it: of twice as many 1.1 times, of fewer than that in proportion."""
    needed: float = LEAST_GAIN ** math.log2(more.runs / fewer.runs)
    return more.steps_per_second >= needed * fewer.steps_per_second


def _chosen(levels: Sequence[Level], reason: str) -> Packing:
    return Packing(runs=levels[-1].runs if levels else 1, reason=reason, levels=tuple(levels))
