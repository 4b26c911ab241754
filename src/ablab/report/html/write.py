"""Write the report: records in, one HTML file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablab.analysis.comparison import Comparisons
from ablab.analysis.selection import compare_selected
from ablab.errors import UserError
from ablab.report.html.page import page
from ablab.report.material import Material
from ablab.results.collect import Runs, collect
from ablab.results.kept import SUFFIX
from ablab.results.store import write_atomically

REPORT_FILE = "report.html"


def write_report(
    folders: Sequence[Path],
    output: Path | None = None,
    filters: Sequence[str] = (),
    **terms: Any,
) -> Path:
    """Write the report on all runs below `folders`, and return its path.

    Args:
        folders: of runs; or files of kept results.
        output: the file to write; default: `report.html` in the first folder, or beside the first file, named after it.
        filters, terms: as `compare_selected` takes them.

    Raises:
        UserError: no runs, an unknown baseline or metric, or a place that cannot be written to.
    """
    text = render_page(*compare_selected(collect(folders), filters, **terms))
    path = output or _default_output(folders[0])
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
    return path


def _default_output(place: Path) -> Path:
    return place.with_name(place.name.removesuffix(SUFFIX) + ".html") if place.is_file() else place / REPORT_FILE


def render_page(comparisons: Comparisons, runs: Runs) -> str:
    """The whole page. Text from records is escaped by the template; only our own figures are markup."""
    return page(Material(runs, comparisons))
