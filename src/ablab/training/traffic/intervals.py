"""For how long at least one of several things was under way, and what was computed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Intervals:
    """The union of intervals, as they begin and end in any thread, within a window that opens and closes.

    What is under way when the window closes counts until then, and counts on from when it opens again.

    Args:
        computing: seconds that the observed thread has computed; None where that is not known.
        now: seconds on a clock that goes on.
    """

    def __init__(self, computing: Callable[[], float] | None, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = 0.0  # of the union
        self.computed = 0.0  # in them
        self._computing = computing or (lambda: 0.0)
        self._now = now
        self._lock = threading.Lock()
        self._under_way = 0
        self._open = False
        self._began = (0.0, 0.0)  # seconds and computed, when the first of those under way began

    def begin(self) -> None:
        with self._lock:
            self._under_way += 1
            if self._open and self._under_way == 1:
                self._start()

    def end(self) -> None:
        with self._lock:
            self._under_way -= 1
            if self._open and self._under_way == 0:
                self._stop()

    def open(self) -> None:
        with self._lock:
            self._open = True
            if self._under_way:
                self._start()

    def close(self) -> None:
        with self._lock:
            if self._open and self._under_way:
                self._stop()
            self._open = False

    def _start(self) -> None:
        self._began = (self._now(), self._computing())

    def _stop(self) -> None:
        began, computed = self._began
        self.seconds += self._now() - began
        self.computed += self._computing() - computed


def thread_clock() -> Callable[[], float] | None:
    """The seconds of processor time of the thread that calls this, to be read from any thread; None if unknown.

    A thread that waits (for another process, for a lock) uses none; nor does one that is ready and has no core.
    """
    clock_of = getattr(time, "pthread_getcpuclockid", None)  # not on macOS
    if clock_of is None:
        return None
    clock = clock_of(threading.get_ident())
    return lambda: time.clock_gettime(clock)
