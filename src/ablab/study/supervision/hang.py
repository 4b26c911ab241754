"""A run of several processes in which nothing goes on, and which of them the others wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ablab.training.failures import KEPT_LINES, named
from ablab.training.stacks import Frame, shown, waits

_LONGEST_LOOK_S = 1.0  # a longer time between two looks means that the supervisor itself stood still


@dataclass
class HangWatch:
    """Tells when no process of a run has gone on for too long.

    Args:
        beats: how often each process has said that it goes on; it changes by itself.
        limit_s: how long is too long; None: never.
    """

    beats: Sequence[int]
    limit_s: float | None
    clock: Callable[[], float] = time.monotonic
    _seen: int = -1
    _looked: float = 0.0
    _idle_s: float = field(default=0.0, init=False)

    def stands_still(self) -> bool:
        """Call it often: what counts is the time in which it was called."""
        now, count = self.clock(), sum(self.beats)
        if count != self._seen:
            self._seen, self._idle_s = count, 0.0
        else:
            self._idle_s += min(now - self._looked, _LONGEST_LOOK_S)
        self._looked = now
        return self.limit_s is not None and self._idle_s > self.limit_s


@dataclass(frozen=True)
class Standing:
    """Where one process of a run stands in which nothing goes on."""

    rank: int
    stack: list[Frame]
    beats: int = 0
    stopped: bool = False  # by SIGSTOP
    ended: bool = False

    @property
    def waits(self) -> bool:
        """For the others, and so not to blame."""
        return not self.ended and waits(self.stack)

    def described(self, processes: int) -> str:
        who = named(self.rank, processes)
        if self.ended:
            return f"{who} has ended, and the others wait for it"
        if self.stopped:
            return f"{who} was stopped (SIGSTOP), and the others wait for it"
        if not self.stack:
            return f"{who} does not answer, and the others wait for it"
        if self.waits:
            return f"all {processes} processes wait for each other"
        file, line, function = self.stack[-1]
        return f"{who} hangs in {function} ({file.rpartition('/')[2]}:{line})"


def at_fault(standings: Sequence[Standing]) -> Standing:
    """The process that the others wait for: one that cannot go on, else one that waits for nobody, else the last."""
    return min(standings, key=lambda each: (not each.ended, bool(each.stack), each.waits, each.beats, each.rank))


def standing_still(standings: Sequence[Standing]) -> str:
    """Where all of them stand, the one at fault first, in a few lines."""
    first = at_fault(standings)
    lines: list[str] = []
    for each in [first, *[each for each in standings if each is not first][:4]]:
        if each.stack:
            kept = KEPT_LINES - 10 if each is first else 1
            lines += [f"process {each.rank} stood here:", *shown(each.stack)[-kept:]]
    return "\n".join(lines)
