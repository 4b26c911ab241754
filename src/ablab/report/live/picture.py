"""Everything that a screen shows, one part below the other, cut to the height of the terminal.

The grid, the runs that run with a bar each, what has been compared, and the study as a whole.
"""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.segment import Segment, SegmentLines
from rich.table import Table
from rich.text import Text

from ablab.errors import printable
from ablab.report.formatting import count, duration
from ablab.report.live import grid, remaining
from ablab.report.live.grid import FEWEST_LINES
from ablab.report.live.lines import block_sentence
from ablab.report.live.state import RunState, StudyState

Lines = list[list[Segment]]


def picture(study: StudyState, compared: Lines, console: Console) -> SegmentLines:
    """The grid, the runs that run, what has been compared, and the study as a whole.

    It is laid out here and now: whoever prints it later need not look at the state, which has gone on.
    """
    width = console.width
    needed = [grid.lines_needed(study), _running_lines(study), len(compared)]
    said = block_sentence(study)
    # The last line, that of the next look, one to print above, gaps.
    room = console.height - 2 - bool(said) - sum(lines > 0 for lines in needed)
    for_grid, for_running, for_compared = share(room, needed)
    parts = (
        _laid_out(grid.grid(study, width, for_grid), console) if for_grid else [],
        _laid_out(running(study, width, for_running), console) if for_running else [],
        _cropped(compared, for_compared),
    )
    lines = [line for part in parts if part for line in (*part, [])]
    if said:
        lines += _laid_out(Text(printable(said), no_wrap=True, overflow="ellipsis"), console)
    return SegmentLines([*lines, *_laid_out(whole(study, width), console)], new_lines=True)


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


_BAR = 16  # columns, where there is room for them
_SHORTEST_BAR = 6
_FIGURES = 56  # columns that a line needs besides its name and its bar
_GAP = 2


def _running_lines(study: StudyState) -> int:
    """The lines of `running` if all runs are shown."""
    return len(study.running) + 1 if study.running else 0


def running(study: StudyState, width: int, lines: int) -> RenderableType:
    """A line per running run: how far it is, how fast, how much longer, how good. Those that do not fit are counted.

    Where the screen is narrow, the bar is left out first, then names are cut short.
    """
    runs = sorted(study.running, key=lambda run: run.info.index)
    fits = len(runs) < lines
    if not fits and lines < FEWEST_LINES:
        return Text(f"{len(runs)} running", style="dim")
    shown = runs if fits else runs[: max(lines - 2, 0)]
    bar = _bar_width(width - _FIGURES - max(len(_name(run)) for run in runs))
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    table.add_column("running")
    for name in ("seed", *([""] if bar else []), "step", "steps/s", "left", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for run in shown:
        table.add_row(*_line(study, run, bar))
    return table if fits else Group(table, Text(f"and {len(runs) - len(shown)} more", style="dim"))


def whole(study: StudyState, width: int) -> RenderableType:
    """The study in one line: how many have ended, how much longer it takes, what went wrong, since when."""
    total = study.total
    words = [f"{study.done}/{total} runs done"]
    if study.stopping:
        words.append("stopping")
    elif study.done < total and (seconds := remaining.of_study(study)) is not None:
        words.append(f"about {duration(seconds)} left{' at most' if study.block else ''}")
    words += [f"{number} {status}" for status, number in study.statuses.items() if status != "ok"]
    words.append(f"{duration(study.now() - study.began_at)} elapsed")
    text = Text(", ".join(words), style="bold", no_wrap=True, overflow="ellipsis")
    bar = _bar_width(width - text.cell_len)
    if not bar:
        return text
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_row(ProgressBar(max(total, 1), study.done, width=bar), text)
    return table


def _line(study: StudyState, run: RunState, bar: int) -> list[RenderableType]:
    speed = run.speed.steps_per_second
    seconds = remaining.of_run(study, run)
    return [
        Text(_name(run), no_wrap=True, overflow="ellipsis"),
        Text(str(run.info.seed)),
        *([ProgressBar(max(run.steps, 1), run.step, width=bar)] if bar else []),
        Text(f"{run.step}/{run.steps}"),
        Text(count(speed) if speed else ""),
        Text("" if seconds is None else duration(seconds)),
        Text(run.shown),
    ]


def _name(run: RunState) -> str:
    return (run.info.variant or "default") + (f" (attempt {run.attempt})" if run.attempt > 1 else "")


def _bar_width(room: int) -> int:
    """The width of a bar that has so much room, the gap beside it included; 0 where it would be too short to tell."""
    width = min(room - _GAP, _BAR)
    return width if width >= _SHORTEST_BAR else 0
