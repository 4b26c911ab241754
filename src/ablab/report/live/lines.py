"""The course of a study as lines: one per run that has ended, a few about the rest."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from ablab.errors import printable
from ablab.report.live import remaining
from ablab.report.live.state import StudyState
from ablab.results.record import Record
from ablab.study.events import Block, Observer, RunOutline

COLOURS = {"ok": "green", "diverged": "yellow", "failed": "red", "interrupted": "yellow"}
STOPPING = "stopping: running runs save themselves (Ctrl-C again: at once)"


class Story(Observer):
    """An observer that keeps the state of the study, and says in lines what has happened.

    Args:
        say: called with each line. Lines are `Text`, in which a label such as "model.sizes=[1,2]" is no markup.
    """

    def __init__(self, say: Callable[[Text], None], clock: Callable[[], float]) -> None:
        self.study = StudyState(clock)
        self._say = say

    def planned(self, runs: Sequence[RunOutline]) -> None:
        self.study.planned(runs)

    def block(self, block: Block) -> None:
        self.study.begin(block)
        self._say(Text(printable(f"seed=auto: {block_sentence(self.study)}")))

    def kept(self, run: RunOutline, record: Record) -> None:
        self.study.kept(run, record)
        self._say(self._ended(run, record, "kept" if record.status == "ok" else record.status, ""))

    def started(self, run: RunOutline, attempt: int) -> None:
        self.study.started(run, attempt)

    def progressed(self, run: RunOutline, step: int, steps: int, shown: str) -> None:
        self.study.progressed(run, step, steps, shown)

    def waiting(self, run: RunOutline, reason: str, seconds: float) -> None:
        self.study.waiting(run, seconds)
        indent = " " * (len(self._place()) + 1)  # so that labels are below one another
        what = f"{_one_line(reason)}; again in {seconds:.0f} s"
        self._say(Text.assemble(indent, (f"{'retry':11}", "magenta"), f" {run.label}  {what}"))

    def ended(self, run: RunOutline, record: Record, seconds: float) -> None:
        self.study.ended(run, record, seconds)
        self._say(self._ended(run, record, record.status, f"  {seconds:.1f} s"))

    def stopping(self) -> None:
        if not self.study.stopping:
            self._say(Text(STOPPING))
        self.study.stopping = True

    def _ended(self, run: RunOutline, record: Record, status: str, took: str) -> Text:
        what = "  ".join(word for word in (run.label, _outcome(record)) if word)
        return Text.assemble(
            f"{self._place()} ", (f"{status:11}", COLOURS[record.status]), f" {what}{took}{self._left()}"
        )

    def _place(self) -> str:
        total = self.study.total
        return f"[{self.study.done:{len(str(total))}}/{total}]"

    def _left(self) -> str:
        study = self.study
        seconds = remaining.of_study(study, study.in_block)
        if not seconds or study.done == study.total:
            return ""
        to_what = "left" if study.block is None else f"to the look at {study.block.seeds} seeds"
        return f"  (about {_rough(seconds)} {to_what})"


def block_sentence(study: StudyState) -> str:
    """What is decided in a study that makes its seeds in blocks, what is open, and what it will cost; "" elsewhere."""
    if study.block is None:
        return ""
    times = [remaining.of_study(study, runs) for runs in (study.in_block, None)]
    to_next, to_end = ("" if seconds is None else _rough(seconds) for seconds in times)
    return study.block.sentence(to_next, to_end)


def _rough(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class PlainLines(Story):
    """Prints the lines at once: for logs, pipes and files."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(highlight=False)
        super().__init__(self._print, clock)

    def _print(self, line: Text) -> None:
        # A study outlives whoever reads along: `| head`, a full disk.
        with contextlib.suppress(OSError, ValueError, SystemExit):
            self._console.print(line, soft_wrap=True)


def _outcome(record: Record) -> str:
    if record.status == "ok" and record.primary is not None:
        return f"{record.primary.name} {record.metrics.get(record.primary.name, math.nan):.4f}"
    return _one_line(record.reason or "")


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))
