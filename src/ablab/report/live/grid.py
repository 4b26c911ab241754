"""The grid of a study: a row per variant, a column per seed, in each cell how that run stands."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablab.report.formatting import plural
from ablab.report.live.lines import COLOURS
from ablab.report.live.state import Row, RunState, StudyState

FEWEST_LINES = 3  # a header, a row and the count of the others; below that, the count alone
_CELL = len("diverged")  # columns that a seed needs
_GAP = 2  # between columns


def lines_needed(study: StudyState) -> int:
    """The lines of the grid if all rows are shown."""
    return 1 + len(study.rows)


def grid(study: StudyState, width: int, lines: int) -> RenderableType:
    """The grid in so many columns and lines.

    Too many variants: the rows that run or have changed last are shown, the others are counted. Too many seeds: each
    row says how many of its runs are ok.
    """
    rows = list(study.rows.values())
    if len(rows) >= lines and lines < FEWEST_LINES:
        return _counted(rows, "variant")
    seeds = sorted({run.info.seed for run in study.runs})
    with_task = len({row.variant for row in rows}) < len(rows)  # else the variant tells the task
    per_seed = _names_width(rows, width, with_task) + sum(_seed_width(seed) for seed in seeds) <= width
    chosen = _liveliest(rows, lines - 2) if len(rows) >= lines else set(range(len(rows)))
    table = _table([rows[i] for i in sorted(chosen)], seeds if per_seed else None, with_task)
    others = [row for i, row in enumerate(rows) if i not in chosen]
    return Group(table, _counted(others, "more variant")) if others else table


def cell(run: RunState) -> Text:
    """How one run stands: its metric where it ended well, else a word or the share of its steps."""
    if run.phase == "waiting":
        return Text("–" if run.needless else "·", style="dim")
    if run.phase == "retrying":
        return Text("retry", style="magenta")
    if run.record is None:
        return Text(f"{100 * run.step // max(run.steps, 1)}%", style="cyan")
    return Text(_result(run), style=COLOURS[run.record.status] + (" dim" if run.kept else ""))


def tally(row: Row) -> str:
    """The row in a few words: "7/20 ok, 1 failed, 2 running"."""
    ended = Counter(run.record.status for run in row.runs if run.record)
    words = [f"{ended['ok']}/{row.total} ok"]
    words += [f"{ended[status]} {status}" for status in ("diverged", "failed", "interrupted") if ended[status]]
    words += [f"{count} {phase}" for phase in ("running", "retrying") if (count := row.count(phase))]
    return ", ".join(words)


def _result(run: RunState) -> str:
    record = run.record
    assert record is not None
    value = record.metrics.get(record.primary.name) if record.primary else None
    if record.status != "ok" or value is None:
        return record.status
    return f"{value:#.4g}".removesuffix(".")  # with its zeros: all cells as wide


def _table(rows: list[Row], seeds: list[int] | None, with_task: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for name in ("task", "variant") if with_task else ("variant",):
        table.add_column(name)
    for seed in seeds or ():
        table.add_column(_header(seed), justify="right", min_width=_CELL, no_wrap=True)
    if seeds is None:
        table.add_column("runs", no_wrap=True)
    for row in rows:
        names = [row.task] if with_task else []
        labels = [Text(name, no_wrap=True, overflow="ellipsis") for name in [*names, row.variant or "default"]]
        table.add_row(*labels, *([Text(tally(row))] if seeds is None else _cells(row, seeds)))
    return table


def _cells(row: Row, seeds: list[int]) -> list[Text]:
    runs = {run.info.seed: run for run in row.runs}
    return [cell(runs[seed]) if seed in runs else Text() for seed in seeds]


def _liveliest(rows: list[Row], count: int) -> set[int]:
    """The places of the rows that run, then of those that changed last."""
    ranked = sorted(range(len(rows)), key=lambda i: (not rows[i].count("running", "retrying"), -rows[i].changed))
    return set(ranked[: max(count, 0)])


def _counted(rows: list[Row], noun: str) -> Text:
    """ "42 more variants: 30 done, 12 waiting"."""
    counts = Counter(_stands(row) for row in rows)
    words = [f"{counts[word]} {word}" for word in ("running", "done", "begun", "waiting") if counts[word]]
    return Text(f"{plural(len(rows), noun)}: {', '.join(words)}", style="dim", no_wrap=True)


def _stands(row: Row) -> str:
    if row.count("running", "retrying"):
        return "running"
    ended = row.count("ended")
    return "done" if ended == row.total else "begun" if ended else "waiting"


def _header(seed: int) -> str:
    return f"seed {seed}"


def _seed_width(seed: int) -> int:
    return _GAP + max(_CELL, len(_header(seed)))


def _names_width(rows: list[Row], width: int, with_task: bool) -> int:
    """What the names of the rows are given at least: half of the screen, if they are that long."""
    longest = max(len(name) for name in ("variant", *(row.variant or "default" for row in rows)))
    tasks = max(len(name) for name in ("task", *(row.task for row in rows))) + _GAP if with_task else 0
    return min(longest + tasks, width // 2)
