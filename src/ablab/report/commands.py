"""What `ablab compare` and `ablab report` do, apart from reading the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablab.analysis.selection import compare_selected
from ablab.report.compare import By, render
from ablab.report.terms import terms_of
from ablab.results.collect import collect


def compare_command(
    folders: Sequence[Path],
    filters: Sequence[str] = (),
    format: str = "terminal",
    by: By | None = None,
    **terms: Any,
) -> str:
    """The comparison of the runs below `folders` as text.

    Args:
        filters: as `ablab.analysis.selection` reads them, "attention=lsh,full".
        format, by: as `render` takes them.
        terms: `baseline`, `metric`, `margin`, `last_k`, as `terms_of` takes them.

    Raises:
        UserError: as `collect`, `compare_selected` and `render` do.
    """
    comparisons, runs = compare_selected(collect(folders), filters, **terms_of(folders, **terms))
    return render(comparisons, runs, format, by)


def report_command(
    folders: Sequence[Path], filters: Sequence[str] = (), output: Path | None = None, **terms: Any
) -> Path:
    """Write the HTML report on the runs below `folders`; its path.

    Args:
        filters, terms: as `compare_command` takes them.
        output: as `write_report` takes it.

    Raises:
        UserError: as `write_report` does.
    """
    from ablab.report.html.write import write_report  # figures and templates take a second to import

    return write_report(folders, output, filters, **terms_of(folders, **terms))
