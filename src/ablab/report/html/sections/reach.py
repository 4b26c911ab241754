"""What can be reached, by theory or by the data, beside what was reached."""

from __future__ import annotations

from ablab.report.context import ReportContext
from ablab.report.figures.ceilings import ceilings
from ablab.report.html.sections.base import Block, Section, per_task, svg
from ablab.report.theory import theory, theory_table

_WINDOWS = (
    " Ticks are single seeds. The ceiling of a window holds for one layer; several layers can pass values on from one "
    "to the next and exceed it."
)


def reach(context: ReportContext) -> Section | None:
    """None where nothing is known of any task."""
    windows = False

    def blocks(task: str) -> list[Block]:
        nonlocal windows
        known = theory(context.runs, task, context.comparisons.last_k)
        if known is None:
            return []
        windows = windows or known.windows
        drawn = svg(context, ceilings(known, context.styles), "theory", task) if known.windows else None
        return [Block(figure=drawn, table=theory_table(known))]

    made = per_task(context, blocks)
    intro = "Known values of the primary metric, by theory or counted in the data, beside the means over seeds."
    return Section("theory", "What can be reached", intro + (_WINDOWS if windows else ""), made) if made else None
