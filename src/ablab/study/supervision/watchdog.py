"""Watchdogs over runs: whether any of their processes goes on, and which of several the others wait for."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ablab.config import RunConfig
from ablab.results.record import Record
from ablab.results.store import write_record
from ablab.training.begin import new_record
from ablab.training.failures import KEPT_LINES, forget_failures, named
from ablab.training.stacks import (
    Frame,
    answer,
    answer_in,
    forget_stacks,
    in_debugger,
    open_answers,
    shown,
    stack_of,
    waits,
)
from ablab.training.world import World

_LONGEST_LOOK_S = 1.0  # a longer time between two looks means that the supervisor itself stood still


@dataclass
class Watchdog:
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

    def is_stuck(self) -> bool:
        """Call it often: what counts is the time in which it was called."""
        now, count = self.clock(), sum(self.beats)
        if count != self._seen:
            self._seen, self._idle_s = count, 0.0
        else:
            self._idle_s += min(now - self._looked, _LONGEST_LOOK_S)
        self._looked = now
        return self.limit_s is not None and self._idle_s > self.limit_s


@dataclass(frozen=True)
class StackReport:
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
        if processes == 1:
            return self._alone(who)
        if self.ended:
            return f"{who} has ended, and the others wait for it"
        if self.stopped:
            return f"{who} was stopped (SIGSTOP), and the others wait for it"
        if not self.stack:
            return f"{who} does not answer, and the others wait for it"
        if self.waits:
            return f"all {processes} processes wait for each other"
        return f"{who} {self._where()}"

    def _alone(self, who: str) -> str:
        if self.stopped:
            return f"{who} was stopped (SIGSTOP)"
        return f"{who} {self._where() if self.stack else 'does not answer'}"

    def _where(self) -> str:
        file, line, function = self.stack[-1]
        return f"hangs in {function} ({file.rpartition('/')[2]}:{line})"


def at_fault(reports: Sequence[StackReport]) -> StackReport:
    """The process that the others wait for: one that cannot go on, else one that waits for nobody, else the last."""
    return min(reports, key=lambda each: (not each.ended, bool(each.stack), each.waits, each.beats, each.rank))


def stack_traces(reports: Sequence[StackReport]) -> str:
    """Where all of them stand, the one at fault first, in a few lines."""
    first = at_fault(reports)
    lines: list[str] = []
    for each in [first, *[each for each in reports if each is not first][:4]]:
        if each.stack:
            kept = KEPT_LINES - 10 if each is first else 1
            lines += [f"stack trace of rank {each.rank}:", *shown(each.stack)[-kept:]]
    return "\n".join(lines)


_AGAIN_S = 1.0  # how often the clock that interrupts a process that holds Python is wound up
_SLACK_S = 2.0  # for the others to have said where they stand
_LAST_S = 10.0  # after which the other processes end by themselves, if the first cannot


class OwnWatchdog:
    """Ends this process when it has not gone on for `hang_timeout`; the first one leaves the record.

    Where a process stands is written by a thread that needs nothing of Python's, and read from the shared folder. One
    that waits in a debugger does not hang.

    Args:
        tell: called with the record before the end.
    """

    def __init__(
        self, place: World, config: RunConfig, folder: Path, tell: Callable[[Record], None] = lambda record: None
    ) -> None:
        self._place, self._config, self._folder, self._tell = place, config, folder, tell
        self._limit = config.execution.hang_timeout
        self._beats = [0]
        self._wound = 0.0
        self._closed = threading.Event()
        if self._limit is not None:
            # Signals, and what a crash prints, are the user's own where they started this process themselves.
            self._file = answer(folder, place.rank) if place.launcher else open_answers(folder, place.rank)
            self.beat()
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def beat(self) -> None:
        """This process goes on."""
        self._beats[0] += 1
        now = time.monotonic()
        if self._limit is not None and now - self._wound > min(_AGAIN_S, self._limit / 4):
            self._wound = now
            answer_in(self._limit, self._file)

    def close(self) -> None:
        self._closed.set()
        if self._limit is not None:
            faulthandler.cancel_dump_traceback_later()
            self._thread.join()
            if not self._place.launcher:
                self._file.close()

    def _look(self) -> None:
        assert self._limit is not None
        watch = Watchdog(self._beats, self._limit + (_SLACK_S if self._place.rank == 0 else _LAST_S))
        while not self._closed.wait(0.2):
            if watch.is_stuck() and not in_debugger(stack_of(self._folder, self._place.rank)):
                if self._place.rank == 0:
                    self._leave_record(self._limit)
                os._exit(1)

    def _leave_record(self, limit: float) -> None:
        size = self._place.size
        reports = [StackReport(rank, stack_of(self._folder, rank)) for rank in range(size)]
        record = new_record(self._config)
        record.cause, record.traceback = "hung", stack_traces(reports)
        who = at_fault(reports).described(size)
        record.reason = f"{who}: nothing went on for {limit:g} s (hang_timeout={limit:g})"
        record.finished_at = datetime.now(UTC).isoformat(timespec="seconds")
        write_record(self._folder, record)
        forget_failures(self._folder)
        forget_stacks(self._folder)
        self._tell(record)
