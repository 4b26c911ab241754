"""A comparison as people are shown it, whatever the format: tables with titles, and lines of verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from ablab.analysis.comparison import Comparison, Comparisons
from ablab.errors import UserError
from ablab.report.context import ReportContext
from ablab.report.extrapolation import extrapolation_table
from ablab.report.notes import notes_of
from ablab.report.over_scale import effects_table, scale_lines, scale_table
from ablab.report.parallel import parallel_table
from ablab.report.placebos import placebo_table
from ablab.report.rows import unhealthy
from ablab.report.sentences import against, measured, verdict_line
from ablab.report.study_notes import interval_lines, no_suite_text, pairing_text, study_notes
from ablab.report.tables import cost_table, inference_table, quality_table


@dataclass(frozen=True)
class Section:
    """A table."""

    kind: Literal["quality", "placebos", "cost", "inference", "parallel", "extrapolation", "scale", "sizes", "runs"]
    where: str  # the task or the suite, "" if there is one task alone
    title: str
    table: pd.DataFrame  # of text


By = Literal["suite", "task"]  # what verdicts are wanted on

_SHARED = "; seeds that were stacked have equal shares of the wall time, and all of the memory"


def sections(context: ReportContext, by: By | None = None) -> list[Section]:
    """Every table, in order: the suite, each task, then the runs that did not end well."""
    comparisons = context.comparisons
    averaged = f", {measured(comparisons.last_k)}" if measured(comparisons.last_k) else ""
    found = []
    for part, _ in parts(comparisons, by):
        where = part if len(comparisons.metrics) > 1 else ""
        of = f"{where}: " if where else ""
        quality = f"{of}quality, against {against(comparisons.baselines)}{averaged}"
        shared = any(record.stacked for record in context.runs.records)
        cost = f"{of}cost, mean over the runs that ended well" + (_SHARED if shared else "")
        found.append(Section("quality", where, quality, quality_table(context, part)))
        placebos = placebo_table(context, part)
        if not placebos.empty:
            title = f"{of}placebos, against what they are copies of; none is a candidate"
            found.append(Section("placebos", where, title, placebos))
        found.append(Section("cost", where, cost, cost_table(context, part)))
        in_use = inference_table(context, part)
        if not in_use.empty:
            title = f"{of}in use: bytes kept of a sequence, FLOPs of its last token, by its length; FLOPs of a prompt"
            found.append(Section("inference", where, title, in_use))
        parallel = parallel_table(context, part)
        if not parallel.empty:
            title = f"{of}parallelism, of a process and step, mean over the runs that ended well"
            found.append(Section("parallel", where, title, parallel.drop(columns="tokens/s")))
        extrapolated = extrapolation_table(context, part)
        if not extrapolated.empty:
            title = (
                f"{of}efficiency on other links and more devices, by a model (ablab.results.step_time), not measured"
            )
            found.append(Section("extrapolation", where, title, extrapolated))
    for each in context.over_scale:
        where = each.ladder.task if len(context.over_scale) > 1 else ""
        of = f"{where}: " if where else ""
        found.append(Section("sizes", where, f"{of}effects by size, with half their intervals", effects_table(each)))
        found.append(Section("scale", where, f"{of}over scale, at ten times the largest compute", scale_table(each)))
    unwell = unhealthy(context.run_rows)
    if not unwell.empty:
        unwell = unwell if len(context.runs.tasks) > 1 else unwell.drop(columns="task")
        found.append(Section("runs", "", "runs that did not end well", unwell))
    return found


def verdict_lines(comparisons: Comparisons, by: By | None = None) -> list[str]:
    """One line per verdict, its notes indented below it, then what holds for all of them."""
    lines = []
    for part, items in parts(comparisons, by):
        if len(comparisons.metrics) > 1 and items:
            lines.append(f"{part}:")
        for item in items:
            lines.append(verdict_line(item))
            lines += [f"            {note}" for note in notes_of(item)]
    earned = [pairing_text(comparisons.earned)] if comparisons.earned else []
    return lines + interval_lines(comparisons) + study_notes(comparisons) + earned


def all_lines(context: ReportContext, by: By | None = None) -> list[str]:
    """The lines of verdicts at each size, and those over scale where there is a ladder."""
    return verdict_lines(context.comparisons, by) + scale_lines(context.over_scale)


def parts(comparisons: Comparisons, by: By | None = None) -> list[tuple[str, list[Comparison]]]:
    """(name, comparisons) of the suite, if there is one, and of each task; or, where `by` says so, of one of the two.

    Raises:
        UserError: the suite is asked for, and there is none.
    """
    if by == "suite" and not comparisons.suite:
        reason = comparisons.no_suite
        raise UserError(f"--by suite: {no_suite_text(reason) if reason else 'no comparison on the suite is left'}")
    suite = [(comparisons.suite[0].task, list(comparisons.suite))] if comparisons.suite and by != "task" else []
    return suite + [(task, comparisons.of_task(task)) for task in comparisons.metrics if by != "suite"]
