"""Which of the two ways to show a study fits where its output goes."""

from __future__ import annotations

from rich.console import Console, RenderableType

from ablab.report.live.lines import PlainLines
from ablab.report.live.screen import Screen
from ablab.report.live.sofar import Compare
from ablab.results.record import Record
from ablab.study.events import Observer


def observer(compare: Compare | None = None, console: Console | None = None) -> Observer:
    """A screen on a terminal that can draw one, plain lines everywhere else.

    Args:
        compare: makes what the screen shows of the runs that have ended; default: `effects_so_far`.
    """
    console = console or Console(highlight=False)
    if not console.is_interactive or console.options.ascii_only:
        return PlainLines(console)
    return Screen(console, compare or _effects_so_far)


def _effects_so_far(records: list[Record]) -> RenderableType | None:
    from ablab.report.live.effects import effects_so_far  # pandas can wait until there is something to compare

    return effects_so_far(records)
