"""One screen that shows a study while it runs: the lines of ended runs scroll by above it.

Events are put into a queue by the thread that runs the study, which must not wait for a terminal. Another one takes
them out a few times a second, prints and draws; all that is known of the study belongs to that thread alone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ablab.report.live.lines import Story
from ablab.report.live.picture import picture
from ablab.report.live.sofar import Compare, SoFar
from ablab.results.record import Record
from ablab.study.events import Observer, RunOutline

# A study outlives its terminal (rich exits where a pipe has broken), and whatever is wrong in here.
_UNSHOWABLE = (Exception, SystemExit)


class Screen(Observer):
    """An observer that draws. Leaves the terminal with the lines of ended runs, and nothing else.

    Args:
        compare: makes what is shown of the runs that have ended from all their records, when more have; None: nothing.
        per_second: how often it is drawn; None: only when `refresh` is called.
    """

    def __init__(
        self,
        console: Console | None = None,
        compare: Compare | None = None,
        clock: Callable[[], float] = time.monotonic,
        per_second: float | None = 4.0,
    ) -> None:
        self._console = console or Console(highlight=False)
        self._clock = clock
        self._at = clock()  # the time of the event that is taken in
        self._events: SimpleQueue[tuple[float, Callable[[], None]]] = SimpleQueue()
        self._lines: list[Text] = []  # said and not yet printed
        self._story = Story(self._lines.append, lambda: self._at)
        self._so_far = SoFar(compare, clock)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._period_s = 1 / per_second if per_second else None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_drawing, daemon=True)

    def planned(self, runs: Sequence[RunOutline]) -> None:
        self._tell(partial(self._story.planned, tuple(runs)))
        self._live.start()
        if self._period_s:
            self._thread.start()

    def kept(self, run: RunOutline, record: Record) -> None:
        self._tell(partial(self._story.kept, run, record))

    def started(self, run: RunOutline, attempt: int) -> None:
        self._tell(partial(self._story.started, run, attempt))

    def progressed(self, run: RunOutline, step: int, steps: int, shown: str) -> None:
        self._tell(partial(self._story.progressed, run, step, steps, shown))

    def waiting(self, run: RunOutline, reason: str, seconds: float) -> None:
        self._tell(partial(self._story.waiting, run, reason, seconds))

    def ended(self, run: RunOutline, record: Record, seconds: float) -> None:
        self._tell(partial(self._story.ended, run, record, seconds))

    def stopping(self) -> None:
        self._tell(self._story.stopping)

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(*_UNSHOWABLE):
            try:
                if self._thread.is_alive():
                    self._thread.join()
                self._take_in()  # what happened since
            finally:
                self._live.stop()

    def refresh(self) -> None:
        """Take in what has happened, print its lines, and draw the screen below them."""
        self._take_in()
        if self._live.is_started:
            compared = self._so_far.lines(self._story.study.records, self._console)
            self._live.update(picture(self._story.study, compared, self._console), refresh=True)

    def _take_in(self) -> None:
        while not self._events.empty():
            self._at, event = self._events.get()
            event()
        self._at = self._clock()
        if self._lines:
            printed, self._lines[:] = Group(*self._lines), []
            self._console.print(printed, soft_wrap=True)

    def _tell(self, event: Callable[[], None]) -> None:
        self._events.put((self._clock(), event))

    def _keep_drawing(self) -> None:
        while not self._closed.wait(self._period_s):
            with contextlib.suppress(*_UNSHOWABLE):
                self.refresh()
