"""One screen that shows a study while it runs: the lines of ended runs scroll by above it.

Events are put into a queue by the thread that runs the study, which must not wait for a terminal. Another one takes
them out a few times a second, prints and draws; all that is known of the study belongs to that thread alone.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from ablab.report.live.lines import PlainLines, Story
from ablab.report.live.picture import picture
from ablab.results.record import Record
from ablab.study.events import Block, Observer, RunOutline

Compare = Callable[[list[Record]], RenderableType | None]
_SHARE = 0.1  # of the time, which comparing may take


class SoFar:
    """Calls `compare` when runs have ended, and shows nothing where it raises: no study ends for what is shown of it.

    Comparing a thousand runs takes a while: it waits until it has rested nine times as long as it took last. The first
    call, which may have to import what it compares with, is not counted.
    """

    def __init__(self, compare: Compare | None, clock: Callable[[], float]) -> None:
        self._compare = compare
        self._clock = clock
        self._compared = 0  # records
        self._rested_at = 0.0
        self._shown: RenderableType | None = None
        self._lines: list[list[Segment]] = []
        self._width: int | None = None  # that the lines were made for

    def lines(self, records: Sequence[Record], console: Console) -> list[list[Segment]]:
        """Show the comparison of the records, as lines of the console's width."""
        if self._compare and len(records) != self._compared and (began := self._clock()) >= self._rested_at:
            first = not self._compared
            self._compared, self._shown, self._width = len(records), None, None
            with contextlib.suppress(Exception):
                self._shown = self._compare(list(records))
            self._rested_at = began if first else began + (self._clock() - began) / _SHARE
        if self._width != console.width:
            self._width, self._lines = console.width, []
            with contextlib.suppress(Exception):
                if self._shown is not None:
                    self._lines = console.render_lines(self._shown, console.options, pad=False)
        return self._lines


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

    def block(self, block: Block) -> None:
        self._tell(partial(self._story.block, block))

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


def observer(compare: Compare | None = None, console: Console | None = None) -> Observer:
    """A screen on a terminal that can draw one, plain lines everywhere else.

    Args:
        compare: makes what the screen shows of the runs that have ended; default: `effects_so_far`.
    """
    drawable = console is not None or sys.stdout.isatty()  # FORCE_COLOR asks for colours in a file, and no more
    console = console or Console(highlight=False)
    if not drawable or not console.is_interactive or console.options.ascii_only:
        return PlainLines(console)
    return Screen(console, compare or _effects_so_far)


def _effects_so_far(records: list[Record]) -> RenderableType | None:
    from ablab.report.live.effects import effects_so_far  # pandas can wait until there is something to compare

    return effects_so_far(records)
