"""`ablab compare` and `ablab report`, apart from reading the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ablab.analysis.comparison import ComparisonSettings
from ablab.report.context import ReportContext
from ablab.report.declared import declared_comparison
from ablab.report.formats import By, render
from ablab.results.kept import SUFFIX


def compare_command(
    folders: Sequence[Path],
    filters: Sequence[str] = (),
    format: str = "terminal",
    by: By | None = None,
    **asked: Unpack[ComparisonSettings],
) -> str:
    """Compare the runs below `folders`, as text.

    Args:
        filters: as `ablab.analysis.selection` reads them, "attention=lsh,full".
        format, by: as `render` takes them.
        asked: as `declared_comparison` takes them.

    Raises:
        UserError: as `ReportContext.read` and `render` do.
    """
    return render(ReportContext.read(folders, filters, **declared_comparison(folders, **asked)), format, by)


def report_command(
    folders: Sequence[Path],
    filters: Sequence[str] = (),
    output: Path | None = None,
    **asked: Unpack[ComparisonSettings],
) -> Path:
    """Write the HTML report on the runs below `folders`, and return its path.

    Args:
        filters, asked: as `compare_command` takes them.
        output: the file to write; default: `report.html` in the first folder, or beside the first file of kept results
            and named after it.

    Raises:
        UserError: as `ReportContext.read` and `write_report` do.
    """
    from ablab.report.html.page import REPORT_FILE, write_report  # figures and templates take a second to import

    context = ReportContext.read(folders, filters, **declared_comparison(folders, **asked))
    return write_report(context, output or _beside(folders[0], REPORT_FILE), through_links=output is not None)


def _beside(place: Path, name: str) -> Path:
    """Where the report on a folder, or on a file of kept results, lies unless it is said."""
    return place.with_name(f"{place.name.removesuffix(SUFFIX)}.html") if place.is_file() else place / name
