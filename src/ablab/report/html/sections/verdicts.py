"""The verdicts, and how many of each kind there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ablab.analysis.comparison import Comparison
from ablab.report.context import ReportContext
from ablab.report.formatting import plural
from ablab.report.notes import study_notes


@dataclass(frozen=True)
class Verdicts:
    """The first screen of the report."""

    glance: str  # all of them in a sentence
    groups: list[tuple[str, list[Comparison]]]  # (task, its verdicts)
    notes: list[str]  # about the comparison as a whole


def verdicts(context: ReportContext) -> Verdicts:
    names = [context.suite, *context.tasks] if context.suite else context.tasks
    groups = [(name, context.compared(name)) for name in names]
    return Verdicts(_glance(context, groups), groups, study_notes(context.comparisons))


def _glance(context: ReportContext, groups: list[tuple[str, list[Comparison]]]) -> str:
    """Of the suite, where there is one: its verdicts are the primary ones."""
    groups = groups[:1] if context.suite else groups
    counts = Counter(item.verdict.value for _, items in groups for item in items)
    if not counts:
        return ""
    kinds = ", ".join(f"{count} {kind.lower()}" for kind, count in counts.items())
    seeds = plural(len({record.seed for record in context.runs.records}), "seed")
    where = f" on the {context.suite}" if context.suite else ""
    where = f" on {plural(len(groups), 'task')}" if len(groups) > 1 else where
    return f"{plural(counts.total(), 'comparison')}{where} over {seeds}: {kinds}."
