"""Write the report: records in, one HTML file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ablab.analysis.comparison import Comparisons, compare
from ablab.analysis.pairing import variants
from ablab.analysis.wording import confidence
from ablab.errors import UserError
from ablab.report.html import provenance
from ablab.report.html.figures.canvas import looks
from ablab.report.html.pictures import pictures_of
from ablab.report.html.sections import NOT_RUN, health, task_section
from ablab.report.tables import run_rows, unhealthy
from ablab.results.collect import Runs, collect
from ablab.results.store import write_atomically

REPORT_FILE = "report.html"
_FOLDER = "report/html"  # of the template and its style, inside the package


def write_report(
    folders: Sequence[Path],
    output: Path | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
) -> Path:
    """Write the report on all runs below `folders`, and return its path.

    Args:
        output: the file to write; default: `report.html` in the first folder.
        baseline, metric, margin: as `compare` takes them.

    Raises:
        UserError: no runs, an unknown baseline or metric, or a place that cannot be written to.
    """
    runs = collect(folders)
    page = render_page(compare(runs, baseline, metric, margin), runs)
    path = output or folders[0] / REPORT_FILE
    try:
        write_atomically(path, page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
    return path


def render_page(comparisons: Comparisons, runs: Runs) -> str:
    """The whole page. Text from records is escaped by the template; only our own figures are markup."""
    look = looks(variants(runs), comparisons.baseline)
    tasks = [
        task_section(comparisons, runs, task, look, f"task{number}")
        for number, task in enumerate(comparisons.metrics, start=1)
    ]
    unwell = unhealthy(run_rows(comparisons, runs))
    loader = PackageLoader("ablab", _FOLDER)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        style=Markup(environment.get_template("style.css").render()),
        studies=sorted({record.study for record in runs.records}),
        question=provenance.question(runs),
        comparisons=comparisons,
        confidence=confidence(comparisons.level),
        n_looks=len(runs.looks),
        factors=runs.factors,
        tasks=tasks,
        pictures=pictures_of(runs),
        health=health(runs),
        not_run=NOT_RUN,
        unwell=unwell if len(tasks) > 1 else unwell.drop(columns="task"),
        settings=provenance.differing_settings(runs),
        groups=provenance.parameter_groups(runs),
        origins=provenance.origins(runs),
        commands=[provenance.command(record) for record in runs.records],
        n_runs=len(runs.records),
    )
