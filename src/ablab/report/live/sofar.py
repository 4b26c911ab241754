"""What has been compared so far, made anew when more runs have ended, and kept as lines in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from rich.console import Console, RenderableType
from rich.segment import Segment

from ablab.results.record import Record

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
        """What there is to show of the records, as lines of the console's width."""
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
