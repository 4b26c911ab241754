"""Write the report: one HTML file."""

from __future__ import annotations

from pathlib import Path

from ablab.errors import UserError
from ablab.report.context import ReportContext
from ablab.report.html.page import page
from ablab.results.store import write_atomically

REPORT_FILE = "report.html"


def write_report(context: ReportContext, path: Path) -> Path:
    """Write the report into the file `path`, and return it. Raises UserError if it cannot be written there."""
    try:
        write_atomically(path, page(context))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
    return path
