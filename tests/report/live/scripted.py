"""Studies that happen as a test says, on a clock that it sets, seen on a terminal of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import synthetic
from emulator import Terminal
from rich.console import Console

from ablab.report.live.screen import Screen
from ablab.results.record import Record
from ablab.study.events import RunOutline


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plan(
    variants: Iterable[str], seeds: Iterable[int] = (0, 1), steps: int = 100, tasks: Iterable[str] = ("text",)
) -> list[RunOutline]:
    """A run per task, variant and seed, in this order."""
    names = [(task, variant, seed) for task in tasks for variant in variants for seed in seeds]
    return [
        RunOutline(index=index, variant=variant, task=task, seed=seed, steps=steps)
        for index, (task, variant, seed) in enumerate(names)
    ]


def ok(run: RunOutline, loss: float = 1.0, **changes: Any) -> Record:
    """The record of the run, which went well."""
    axes = dict(part.split("=", 1) for part in run.variant.split(",") if "=" in part and "." not in part)
    return synthetic.record(run.seed, loss, axes={"task": run.task, **axes}, index=run.index, **changes)


def unwell(run: RunOutline, status: str = "failed", reason: str = "the bulb is broken") -> Record:
    record = ok(run, metrics={})
    record.status, record.reason = status, reason  # type: ignore[assignment]
    return record


class Seen(Screen):
    """A screen without a thread, and the terminal that shows it."""

    def __init__(self, width: int = 100, height: int = 40, compare: Any = None) -> None:
        self.clock = Clock()
        self.terminal = Terminal(width, height)
        console = Console(file=self.terminal, force_terminal=True, width=width, height=height)  # type: ignore[arg-type]
        super().__init__(console, compare, self.clock, per_second=None)

    def drawn(self) -> list[str]:
        """The lines on the terminal, now."""
        self.refresh()
        return self.terminal.lines

    def row(self, name: str) -> list[str]:
        """The cells beside that name in the grid."""
        lines = self.drawn()
        header = max(i for i, line in enumerate(lines) if line.startswith(("variant", "task ")))
        line = next(line for line in lines[header:] if line.startswith(f"{name} "))
        return line.removeprefix(name).split()
