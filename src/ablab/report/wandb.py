"""A study's report in Weights & Biases: one run beside the training runs, with the table, the verdicts and the page.

Only where the study's runs were logged there; with the project, the team and the way, offline or not, of the last one.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ablab.config import Node
from ablab.report.context import ReportContext
from ablab.report.formats import render
from ablab.report.formats.contents import all_lines
from ablab.report.sentences import named
from ablab.results.record import Record
from ablab.results.store import write_atomically
from ablab.results.wandb_runs import begin

WANDB_LOGGER = "ablab.training.loggers.wandb.RunsLogger"  # the `_target_` of a run that was logged there
SHOWN_FILE = "wandb-report.sha256"  # in the study's folder: of the comparison that was shown last


def show_in_wandb(folder: Path, context: ReportContext, report: Path) -> None:
    """Show the report of the study in `folder` as a W&B run of job type "report", if its runs were logged there.

    It holds the tables of variants and runs, the verdicts (a table, and text in the summary), and two artifacts: the
    comparison as CSV and JSON, and the page `report`. Concluding again goes on with the same W&B run, and where nothing
    has changed does nothing. Offline, each is a folder of its own below `folder`/wandb, which become one run when they
    are uploaded.

    What fails is one line on stderr: a study is not the worse for it.
    """
    node = _settings(context.runs.records)
    if node is None:
        return
    try:
        _show(folder, context, report, node)
    except Exception as error:  # whatever a service may raise
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"ablab: the report is not in W&B: {reason}", file=sys.stderr)


def _settings(records: list[Record]) -> Node | None:
    """The settings of the W&B logger of the last run that had one."""
    nodes = [node for record in records for node in (record.config.get("logger") or {}).values()]
    return next((node for node in reversed(nodes) if node.get("_target_") == WANDB_LOGGER), None)


def _show(folder: Path, context: ReportContext, report: Path, node: Node) -> None:
    texts = {f"comparison.{name}": render(context, name) for name in ("json", "csv")}
    digest = hashlib.sha256(repr((sorted(texts.items()), node)).encode()).hexdigest()
    shown = folder / SHOWN_FILE
    if shown.is_file() and shown.read_text(encoding="utf-8").strip() == digest:
        return
    shown.unlink(missing_ok=True)
    first = context.runs.records[0]
    study = first.study
    run = begin(
        folder,
        project=node.get("project", "ablab"),
        entity=node.get("entity"),
        offline=node.get("offline", True),
        name=f"{study} report",
        group=study,
        job_type="report",
        tags=[study, *(node.get("tags") or ())],
        config={"question": first.config.get("question"), "baseline": named(context.comparisons.baselines)},
    )
    exit_code = 1
    try:
        _fill(run, context, study, texts, report)
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)
    write_atomically(shown, digest + "\n")


def _fill(run: Any, context: ReportContext, study: str, texts: dict[str, str], report: Path) -> None:
    import wandb

    verdicts = all_lines(context)
    tables = {"variants": context.variant_rows, "runs": context.run_rows}
    shown = {
        name: wandb.Table(columns=list(map(str, table)), data=_cells(table), allow_mixed_types=True)
        for name, table in tables.items()
    }
    lines: list[Iterable[Any]] = [[line] for line in verdicts]
    run.log({**shown, "verdicts": wandb.Table(columns=["verdict"], data=lines)})
    run.summary.update({"verdict": "\n".join(verdicts), "n_runs": len(context.runs.records)})
    comparison = wandb.Artifact(_name(study, "comparison"), type="comparison")
    for name, text in texts.items():
        with comparison.new_file(name, encoding="utf-8") as file:
            file.write(text)
    run.log_artifact(comparison)
    page = wandb.Artifact(_name(study, "report"), type="report")
    page.add_file(str(report), name=report.name)
    run.log_artifact(page)


def _cells(table: Any) -> list[Iterable[Any]]:
    """Rows of Python's own values; None where there is none."""
    return [[None if cell != cell else cell for cell in row] for row in table.astype(object).to_numpy().tolist()]


def _name(study: str, what: str) -> str:
    """Name an artifact: letters, digits, dots, dashes and underscores, at most 128."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', study)[:100]}-{what}"
