"""What `ablab compare` and `ablab report` do, apart from reading the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablab.analysis.comparison import compare
from ablab.report.compare import render
from ablab.results.collect import collect


def compare_command(
    folders: Sequence[Path],
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    format: str = "terminal",
) -> str:
    """The comparison of all runs below `folders` as text. Raises UserError, as `collect`, `compare` and `render` do."""
    runs = collect(folders)
    return render(compare(runs, baseline, metric, margin), runs, format)


def report_command(
    folders: Sequence[Path],
    output: Path | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
) -> Path:
    """Write the HTML report on all runs below `folders`; its path. Raises UserError, as `write_report` does."""
    from ablab.report.html.write import write_report  # figures and templates take a second to import

    return write_report(folders, output, baseline, metric, margin)
