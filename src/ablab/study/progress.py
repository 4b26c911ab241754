"""What the terminal shows during a sweep: a line per finished run, and a bar for the one that runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ablab.results.record import Record
from ablab.training.callbacks import Progress as Report

_COLOURS = {"ok": "green", "diverged": "yellow", "failed": "red", "interrupted": "yellow"}


class SweepProgress:
    """Prints to stdout; where that is no terminal, only the lines of finished runs."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._timed = 0  # runs that were run, not kept
        self._seconds = 0.0
        self._console = Console(soft_wrap=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @contextlib.contextmanager
    def run(self, label: str) -> Iterator[Report]:
        """Shows a bar while a run runs; the value is called with its progress."""
        bar = self._bar.add_task(f"[{self._done + 1}/{self._total}] {escape(label)}", total=None, shown="starting")

        def report(step: int, steps: int, shown: str) -> None:
            self._bar.update(bar, completed=step, total=steps, shown=escape(shown))

        try:
            yield report
        finally:
            self._bar.remove_task(bar)

    def finished(self, label: str, record: Record, kept: bool, seconds: float) -> None:
        """Prints the line of a run that has ended."""
        self._done += 1
        if not kept:
            self._timed += 1
            self._seconds += seconds
        width = len(str(self._total))
        status = "kept" if kept and record.status == "ok" else record.status
        what = record.reason or ""
        if record.status == "ok" and record.primary is not None:
            what = f"{record.primary.name} {record.metrics[record.primary.name]:.4f}"
        took = "" if kept else f"  {seconds:.1f} s"
        self._console.print(
            f"[{self._done:{width}}/{self._total}]".replace("[", r"\["),
            f"[{_COLOURS[record.status]}]{status:11}[/]",
            f"{escape(label)}  {escape(what)}{took}{self._left()}",
        )

    def _left(self) -> str:
        remaining = self._total - self._done
        if not remaining or not self._timed:
            return ""
        seconds = remaining * self._seconds / self._timed
        return f"  (about {seconds:.0f} s left)" if seconds < 100 else f"  (about {seconds / 60:.0f} min left)"
