"""How large each effect is: the forest plot, and the table of quality."""

from __future__ import annotations

from ablab.analysis.wording import confidence
from ablab.report import drawings
from ablab.report.html.sections.base import Block, Section, per_task, svg
from ablab.report.material import Material
from ablab.report.tables import quality_table

_NONE = "No effect to draw: no variant shares a finished seed with the baseline."


def effects(material: Material) -> Section:
    level = confidence(material.comparisons.level)

    def blocks(task: str) -> list[Block]:
        drawn = svg(material, drawings.forest(material, task), "effects", task)
        return [Block(figure=drawn, otherwise=_NONE, table=quality_table(material.comparisons, material.runs, task))]

    return Section(
        "effects",
        "Effects",
        f"Points are means over paired seeds, bars {level} intervals, ticks single seeds. A filled marker is a "
        "resolved verdict; a grey band is the declared margin.",
        per_task(material, blocks, suite=True),
    )
