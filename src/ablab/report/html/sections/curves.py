"""How the runs learned, and when one variant draws away from another."""

from __future__ import annotations

from ablab.report import drawings
from ablab.report.html.sections.base import Block, Section, per_task, svg
from ablab.report.material import Material

_NONE = "No learning curves: no metrics.csv beside the records."


def learning(material: Material) -> Section:
    def blocks(task: str) -> list[Block]:
        drawn = svg(material, drawings.curves(material, task), "curves", task)
        apart = svg(material, drawings.differences(material, task), "curves", task, 1)
        made = [Block(figure=drawn, otherwise=_NONE)]
        return made + ([Block(title="Difference to the baseline, seed by seed", figure=apart)] if apart else [])

    return Section(
        "curves",
        "Learning curves",
        "Lines are means over seeds, bands 95% t intervals at each point by itself, dotted lines runs that diverged.",
        per_task(material, blocks),
    )
