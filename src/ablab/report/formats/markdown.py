"""For a README or an issue."""

from __future__ import annotations

from ablab.analysis.comparison import Comparisons
from ablab.report.context import ReportContext
from ablab.report.formats.contents import By, sections, verdict_lines


def markdown(context: ReportContext, by: By | None = None) -> str:
    """Tables and a list of verdicts."""
    return "\n\n".join([*tables(context, by), verdicts(context.comparisons, by)])


def tables(context: ReportContext, by: By | None = None) -> list[str]:
    """Each table below its title."""
    parts = []
    for section in sections(context, by):
        cells = section.table.astype(str).map(_cell).rename(columns=_cell)
        text = cells.to_markdown(index=False, disable_numparse=True)
        parts.append(f"**{_cell(section.title)}**\n\n{text}")
    return parts


def verdicts(comparisons: Comparisons, by: By | None = None) -> str:
    """A list, the notes to a verdict below it."""
    return "\n".join(_item(line) for line in verdict_lines(comparisons, by))


def _item(line: str) -> str:
    """A list item; notes, which are indented, lie one level below their verdict."""
    return f"{'  ' if line.startswith(' ') else ''}- {_cell(line.strip())}"


def _cell(text: str) -> str:
    """Text that neither ends its cell nor becomes markup or HTML."""
    text = text.replace("\\", "\\\\").replace("\r", " ").replace("\n", " ")
    for mark in "|*_`<[":
        text = text.replace(mark, f"\\{mark}")
    return text
