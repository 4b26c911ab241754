"""The bar of a run by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ablab.training.callbacks import Progress as Report


@contextlib.contextmanager
def run_bar(label: str) -> Iterator[Report]:
    """Shows a bar on a terminal while a run runs, and nothing elsewhere; the value is called with its progress."""
    console = Console(soft_wrap=True, highlight=False)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(escape(label), total=None, shown="starting")

    def report(step: int, steps: int, shown: str) -> None:
        bar.update(task, completed=step, total=steps, shown=escape(shown))

    with bar:
        yield report
