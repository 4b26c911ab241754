"""A process's own watch over its run, where a launcher and no supervisor of ours has started it."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from ablab.config import RunConfig
from ablab.results.store import write_record
from ablab.study.supervision.hang import HangWatch, Standing, at_fault, standing_still
from ablab.training.failures import forget_failures
from ablab.training.run import new_record
from ablab.training.stacks import answer, answer_in, forget_stacks, stack_of
from ablab.training.world import World

_AGAIN_S = 1.0  # how often the clock that interrupts a process that holds Python is wound up
_SLACK_S = 2.0  # for the others to have said where they stand
_LAST_S = 10.0  # after which the other processes end by themselves, if the first cannot


class Watch:
    """Ends this process when it has not gone on for `hang_timeout`; the first one leaves the record.

    Where a process stands is written by a thread that needs nothing of Python's, and read from the shared folder.
    """

    def __init__(self, place: World, config: RunConfig, folder: Path) -> None:
        self._place, self._config, self._folder = place, config, folder
        self._limit = config.execution.hang_timeout
        self._beats = [0]
        self._wound = 0.0
        self._closed = threading.Event()
        if self._limit is not None:
            answer(folder, place.rank)
            self.beat()
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def beat(self) -> None:
        """This process goes on."""
        self._beats[0] += 1
        now = time.monotonic()
        if self._limit is not None and now - self._wound > min(_AGAIN_S, self._limit / 4):
            self._wound = now
            answer_in(self._limit)

    def close(self) -> None:
        self._closed.set()
        if self._limit is not None:
            faulthandler.cancel_dump_traceback_later()
            self._thread.join()

    def _look(self) -> None:
        assert self._limit is not None
        watch = HangWatch(self._beats, self._limit + (_SLACK_S if self._place.rank == 0 else _LAST_S))
        while not self._closed.wait(0.2):
            if watch.stands_still():
                if self._place.rank == 0:
                    self._leave_record(self._limit)
                os._exit(1)

    def _leave_record(self, limit: float) -> None:
        size = self._place.size
        standings = [Standing(rank, stack_of(self._folder, rank)) for rank in range(size)]
        record = new_record(self._config)
        record.cause, record.traceback = "hung", standing_still(standings)
        who = at_fault(standings).described(size)
        record.reason = f"{who}: nothing went on for {limit:g} s (hang_timeout={limit:g})"
        record.finished_at = datetime.now(UTC).isoformat(timespec="seconds")
        write_record(self._folder, record)
        forget_failures(self._folder)
        forget_stacks(self._folder)
