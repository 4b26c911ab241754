"""The comparison as text: for a terminal, a spreadsheet, a README or a program."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from typing import Any, Literal, get_args

import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ablab.analysis.comparison import Comparison, Comparisons
from ablab.analysis.power import detectable
from ablab.analysis.verdicts import RESOLVED
from ablab.errors import UserError
from ablab.report.tables import cost_table, quality_table, run_rows, unhealthy, variant_rows
from ablab.results.collect import Runs

Format = Literal["terminal", "csv", "markdown", "json"]
SCHEMA_VERSION = 1  # of the JSON
PIPE_WIDTH = 160  # where stdout is no terminal, nothing needs to wrap
_WIDE = 10_000  # a width at which every column has what it asks for
_FOLDED = 24  # columns; names and reasons fold no narrower than this


def render(comparisons: Comparisons, runs: Runs, format: str = "terminal") -> str:
    """The comparison in one of the formats, ending in a newline. Raises UserError for any other format."""
    writers = {"terminal": _terminal, "csv": _csv, "markdown": _markdown, "json": _json}
    if format not in writers:
        raise UserError(f"format {format}: choose one of {', '.join(get_args(Format))}")
    return writers[format](comparisons, runs).rstrip("\n") + "\n"


def verdict_lines(comparisons: Comparisons) -> list[str]:
    """One line per verdict, its notes indented below it, then what holds for all of them."""
    lines = []
    many = len(comparisons.metrics) > 1
    for task in comparisons.metrics:
        items = comparisons.of_task(task)
        if many and items:
            lines.append(f"{task}:")
        for item in items:
            lines.append(item.line)
            lines += [f"            {note}" for note in item.notes]
    return lines + list(comparisons.notes)


def _tables(comparisons: Comparisons, runs: Runs) -> list[tuple[str, pd.DataFrame]]:
    """(title, table) for every table that people are shown, in order."""
    many = len(comparisons.metrics) > 1
    tables = []
    for task in comparisons.metrics:
        where = f"{task}: " if many else ""
        tables.append((f"{where}quality, against {comparisons.baseline}", quality_table(comparisons, runs, task)))
        tables.append((f"{where}cost, mean over the runs that ended well", cost_table(comparisons, runs, task)))
    unwell = unhealthy(run_rows(comparisons, runs))
    if not unwell.empty:
        tables.append(("runs that did not end well", unwell if many else unwell.drop(columns="task")))
    return tables


def _terminal(comparisons: Comparisons, runs: Runs) -> str:
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns if terminal else PIPE_WIDTH
    text = io.StringIO()
    for title, table in _tables(comparisons, runs):
        shown = _rich(title, table)
        # A number that is cut short is a wrong number: a table wider than the terminal keeps its width.
        needed = Measurement.get(probe := _console(text, _WIDE, terminal), probe.options, shown).minimum
        _console(text, max(width, needed), terminal).print(shown)
        text.write("\n")
    return text.getvalue() + "\n".join(verdict_lines(comparisons))


def _console(text: io.StringIO, width: int, terminal: bool) -> Console:
    return Console(file=text, width=width, force_terminal=terminal, highlight=False)


def _rich(title: str, frame: pd.DataFrame) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    cells = {str(name): [str(cell) for cell in frame[name]] for name in frame.columns}
    for name, column in cells.items():
        text = name in ("variant", "reason", "task", "verdict", "runs", "status")
        folded = name in ("variant", "reason", "task")
        longest = max(map(cell_len, [name, *column]))
        table.add_column(
            Text(name),
            justify="left" if text else "right",
            no_wrap=not folded,
            overflow="fold",
            width=None if folded else longest,  # a width that is given need not be measured
            min_width=min(longest, _FOLDED),
        )
    resolved = tuple(f"* {verdict.value}" for verdict in RESOLVED)
    for row in zip(*cells.values(), strict=True):
        marked = any(cell.startswith(resolved) for cell in row)
        table.add_row(*map(Text, row), style="bold" if marked else "")
    return table


def _markdown(comparisons: Comparisons, runs: Runs) -> str:
    parts = []
    for title, table in _tables(comparisons, runs):
        cells = table.astype(str).map(_markdown_cell).rename(columns=_markdown_cell)
        text = cells.to_markdown(index=False, disable_numparse=True)
        parts.append(f"**{_markdown_cell(title)}**\n\n{text}")
    parts.append("\n".join(_markdown_item(line) for line in verdict_lines(comparisons)))
    return "\n\n".join(parts)


def _markdown_item(line: str) -> str:
    """A list item; notes, which are indented, lie one level below their verdict."""
    return f"{'  ' if line.startswith(' ') else ''}- {_markdown_cell(line.strip())}"


def _markdown_cell(text: str) -> str:
    """Text that neither ends its cell nor becomes markup or HTML."""
    text = text.replace("\\", "\\\\").replace("\r", " ").replace("\n", " ")
    for mark in "|*_`<[":
        text = text.replace(mark, f"\\{mark}")
    return text


def _csv(comparisons: Comparisons, runs: Runs) -> str:
    """A row per variant (`row` is "variant"), then one per run that did not end well (`row` is "run")."""
    rows = variant_rows(comparisons, runs)
    rows.insert(0, "row", "variant")
    unwell = unhealthy(run_rows(comparisons, runs))
    every = rows.to_dict("records") + [{"row": "run", **run} for run in unwell.to_dict("records")]
    columns = [*rows.columns, "seed", "reason"]
    return str(pd.DataFrame(every, columns=columns).to_csv(index=False, lineterminator="\n"))


def document(comparisons: Comparisons, runs: Runs) -> dict[str, Any]:
    """Everything that is known of the comparison, as JSON can hold it."""
    found = {
        "schema": SCHEMA_VERSION,
        "baseline": comparisons.baseline,
        "comparisons": [_item(item) for item in comparisons.items],
        "notes": list(comparisons.notes),
        "looks": [vars(look) for look in runs.looks],
        "variants": variant_rows(comparisons, runs).to_dict("records"),
        "runs": run_rows(comparisons, runs).to_dict("records"),
    }
    return {key: _plain(value) for key, value in found.items()}


def _json(comparisons: Comparisons, runs: Runs) -> str:
    return json.dumps(document(comparisons, runs), indent=1, ensure_ascii=False, allow_nan=False)


def _item(item: Comparison) -> dict[str, Any]:
    return {
        "variant": item.variant,
        "baseline": item.baseline,
        "task": item.task,
        "metric": item.metric,
        "direction": item.direction,
        "seeds": item.seeds,
        "seeds_planned": item.planned,
        "differences": item.differences,
        "effect": item.effect,
        "interval": item.interval,
        "confidence": 1 - item.level,
        "p": item.p_raw,
        "p_adjusted": item.p_adjusted,
        "adjustment": item.adjustment,
        "correlation": item.correlation,
        "detectable": detectable(item.estimate, item.level) if item.estimate else None,
        "margin": item.margin,
        "equivalence_interval": item.equivalence_interval,
        "diverged": item.diverged,
        "ended": item.ended,
        "baseline_diverged": item.baseline_diverged,
        "baseline_ended": item.baseline_ended,
        "verdict": item.verdict.value,
        "preliminary": item.preliminary,
        "sentence": item.sentence,
        "notes": item.notes,
    }


def _plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinity become null, tuples lists, numpy's scalars Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
