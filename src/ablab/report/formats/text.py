"""For people: a terminal or a pipe; a README or an issue; a notebook."""

from __future__ import annotations

import io
import shutil
import sys
from html import escape

import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ablab.analysis.over_scale.verdicts import ScaleVerdict
from ablab.analysis.verdicts import RESOLVED
from ablab.errors import printable
from ablab.report.context import ReportContext
from ablab.report.formats.contents import By, all_lines, sections

PIPE_WIDTH = 160  # where stdout is no terminal, nothing needs to wrap
_WIDE = 10_000  # a width at which every column has what it asks for
_FOLDED = 24  # columns; names and reasons fold no narrower than this


def terminal(context: ReportContext, by: By | None = None) -> str:
    """Tables and verdicts, as wide as the terminal; in colour where stdout is one."""
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns if is_terminal else PIPE_WIDTH
    text = io.StringIO()
    for section in sections(context, by):
        shown = _rich(section.title, section.table)
        # A number that is cut short is a wrong number: a table wider than the terminal keeps its width.
        needed = Measurement.get(probe := _console(text, _WIDE, is_terminal), probe.options, shown).minimum
        _console(text, max(width, needed), is_terminal).print(shown)
        text.write("\n")
    return text.getvalue() + printable("\n".join(all_lines(context, by)))


def _console(text: io.StringIO, width: int, terminal: bool) -> Console:
    return Console(file=text, width=width, force_terminal=terminal, highlight=False)


def _rich(title: str, frame: pd.DataFrame) -> Table:
    table = Table(title=Text(printable(title)), title_justify="left", title_style="bold", box=None, pad_edge=False)
    cells = {printable(str(name)): [printable(str(cell)) for cell in frame[name]] for name in frame.columns}
    for name, column in cells.items():
        text = name in ("variant", "reason", "task", "verdict", "runs", "status", "placebo", "of", "came out")
        folded = name in ("variant", "reason", "task", "of")
        longest = max(map(cell_len, [name, *column]))
        table.add_column(
            Text(name),
            justify="left" if text else "right",
            no_wrap=not folded,
            overflow="fold",
            width=None if folded else longest,  # a width that is given need not be measured
            min_width=min(longest, _FOLDED),
        )
    resolved = tuple(f"* {verdict.value}" for verdict in (*RESOLVED, *ScaleVerdict))
    for row in zip(*cells.values(), strict=True):
        marked = any(cell.startswith(resolved) for cell in row)
        table.add_row(*map(Text, row), style="bold" if marked else "")
    return table


def markdown(context: ReportContext, by: By | None = None) -> str:
    """Tables and a list of markdown_verdicts."""
    return "\n\n".join([*markdown_tables(context, by), markdown_verdicts(context, by)])


def markdown_tables(context: ReportContext, by: By | None = None) -> list[str]:
    """Each table below its title."""
    parts = []
    for section in sections(context, by):
        cells = section.table.astype(str).map(_cell).rename(columns=_cell)
        text = cells.to_markdown(index=False, disable_numparse=True)
        parts.append(f"**{_cell(section.title)}**\n\n{text}")
    return parts


def markdown_verdicts(context: ReportContext, by: By | None = None) -> str:
    """A list, the notes to a verdict below it."""
    return "\n".join(_item(line) for line in all_lines(context, by))


def _item(line: str) -> str:
    """A list item; notes, which are indented, lie one level below their verdict."""
    return f"{'  ' if line.startswith(' ') else ''}- {_cell(line.strip())}"


def _cell(text: str) -> str:
    """Text that neither ends its cell nor becomes markup or HTML."""
    text = text.replace("\\", "\\\\").replace("\r", " ").replace("\n", " ")
    for mark in "|*_`<[":
        text = text.replace(mark, f"\\{mark}")
    return text


def html(context: ReportContext, by: By | None = None) -> str:
    """The tables of quality and the verdicts, for a notebook's cell."""
    parts = []
    for section in sections(context, by):
        if section.kind in ("quality", "runs"):
            table = section.table.map(_flat).rename(columns=_flat).to_html(index=False, border=0, justify="left")
            parts.append(f"<p><b>{escape(_flat(section.title))}</b></p>\n{table}")
    lines = "\n".join(f"<li>{escape(_flat(line.strip()))}</li>" for line in all_lines(context, by))
    return "\n".join([*parts, f"<ul>\n{lines}\n</ul>"])


def _flat(text: object) -> str:
    return printable(str(text))
