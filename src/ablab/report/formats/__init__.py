"""The comparison as text: for a terminal, a spreadsheet, a README, a paper or a program."""

from __future__ import annotations

from typing import Literal, get_args

from ablab.errors import UserError, printable
from ablab.report.context import ReportContext
from ablab.report.formats.contents import By, parts
from ablab.report.formats.latex import latex
from ablab.report.formats.machine import csv, json
from ablab.report.formats.text import markdown, terminal

__all__ = ["By", "Format", "render"]

Format = Literal["terminal", "csv", "markdown", "json", "latex"]
_WRITERS = {"terminal": terminal, "csv": csv, "markdown": markdown, "json": json, "latex": latex}


def render(context: ReportContext, format: str = "terminal", by: By | None = None) -> str:
    """Write the comparison in one of the formats, ending in a newline.

    Args:
        by: verdicts on the suite of tasks alone, or on each task alone; default: both, as far as there is a suite.

    Raises:
        UserError: another format, or the suite where there is none.
    """
    if format not in _WRITERS:
        raise UserError(f"format {format}: choose one of {', '.join(get_args(Format))}")
    parts(context.comparisons, by)  # refuses what is not there, whatever the format
    text = _WRITERS[format](context, by).rstrip("\n") + "\n"
    return text if format == "terminal" else printable(text)  # the terminal's has colours, and is clean otherwise
