"""How large each effect is: the forest plot, and the table of quality."""

from __future__ import annotations

from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.formatting import confidence
from ablab.report.html.sections.base import Block, Section, per_task, svg
from ablab.report.tables import quality_table

_NONE = "No effect to draw: no variant shares a finished seed with the baseline."
_ALONE = "No effect to draw: there is one variant."


def effects(context: ReportContext) -> Section:
    def blocks(task: str) -> list[Block]:
        drawn = svg(context, drawings.forest(context, task), "effects", task)
        none = _ALONE if len(context.variants) == 1 else _NONE
        return [Block(figure=drawn, otherwise=none, table=quality_table(context, task))]

    return Section(
        "effects",
        "Effects",
        _intro(context) if context.comparisons.items else "",
        per_task(context, blocks, suite=True),
    )


def _intro(context: ReportContext) -> str:
    level = confidence(context.comparisons.level)
    band = "; a grey band is the declared margin" if any(item.margin for item in context.comparisons.items) else ""
    return (
        f"Points are means over paired seeds, bars {level} intervals, ticks single seeds. A filled marker is a "
        f"resolved verdict{band}."
    )
