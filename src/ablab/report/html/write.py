"""Write the report: records in, one HTML file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablab.analysis.comparison import Comparisons
from ablab.analysis.selection import compare_selected
from ablab.errors import UserError
from ablab.report.html.page import page
from ablab.report.material import Material
from ablab.results.collect import Runs, collect
from ablab.results.store import write_atomically

REPORT_FILE = "report.html"


def write_report(
    folders: Sequence[Path],
    output: Path | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    last_k: int = 1,
    filters: Sequence[str] = (),
) -> Path:
    """Write the report on all runs below `folders`, and return its path.

    Args:
        output: the file to write; default: `report.html` in the first folder.
        baseline, metric, margin, last_k: as `compare` takes them.
        filters: as `compare_selected` takes them.

    Raises:
        UserError: no runs, an unknown baseline or metric, or a place that cannot be written to.
    """
    terms = {"baseline": baseline, "metric": metric, "margin": margin, "last_k": last_k}
    page = render_page(*compare_selected(collect(folders), filters, **terms))
    path = output or folders[0] / REPORT_FILE
    try:
        write_atomically(path, page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
    return path


def render_page(comparisons: Comparisons, runs: Runs) -> str:
    """The whole page. Text from records is escaped by the template; only our own figures are markup."""
    return page(Material(runs, comparisons))
