"""Everything that a screen shows, one part below the other, cut to the height of the terminal."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.segment import Segment, SegmentLines

from ablab.report.live import grid, running
from ablab.report.live.state import StudyState

Lines = list[list[Segment]]


def picture(study: StudyState, compared: Lines, console: Console) -> SegmentLines:
    """The grid, the runs that run, what has been compared, and the study as a whole.

    It is laid out here and now: whoever prints it later need not look at the state, which has gone on.
    """
    width = console.width
    needed = [grid.lines_needed(study), running.lines_needed(study), len(compared)]
    room = console.height - 2 - sum(lines > 0 for lines in needed)  # the last line, one to print above, gaps
    for_grid, for_running, for_compared = share(room, needed)
    parts = (
        _laid_out(grid.grid(study, width, for_grid), console) if for_grid else [],
        _laid_out(running.running(study, width, for_running), console) if for_running else [],
        _cropped(compared, for_compared),
    )
    lines = [line for part in parts if part for line in (*part, [])]
    return SegmentLines([*lines, *_laid_out(running.whole(study, width), console)], new_lines=True)


def share(room: int, needed: list[int]) -> list[int]:
    """Lines for each part: what it needs, and where that is too much, as much as the others that need too much."""
    given = [0] * len(needed)
    room = max(room, 0)
    for rank, i in enumerate(sorted(range(len(needed)), key=needed.__getitem__)):
        given[i] = min(needed[i], room // (len(needed) - rank))
        room -= given[i]
    return given


def _laid_out(shown: RenderableType, console: Console) -> Lines:
    return console.render_lines(shown, console.options, pad=False)


def _cropped(lines: Lines, room: int) -> Lines:
    if len(lines) <= room:
        return lines
    if room < grid.FEWEST_LINES:
        return []
    return [*lines[: room - 1], [Segment(f"… {len(lines) - room + 1} more lines")]]
