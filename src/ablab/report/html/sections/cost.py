"""Quality beside what it cost."""

from __future__ import annotations

from ablab.analysis.pareto import unequal_budgets
from ablab.report import drawings
from ablab.report.html.sections.base import Block, Section, per_task, svg
from ablab.report.material import Material
from ablab.report.tables import cost_table


def cost(material: Material) -> Section:
    baseline = material.comparisons.baseline

    def blocks(task: str) -> list[Block]:
        unequal = unequal_budgets(material.runs, task, baseline)
        drawn = svg(material, drawings.cost(material, task), "cost", task)
        table = cost_table(material.comparisons, material.runs, task)
        table["budget"] = [unequal.get(variant, "") for variant in table["variant"]]
        return [
            Block(
                figure=drawn,
                otherwise="No costs to draw: no run ended well.",
                table=table if unequal else table.drop(columns="budget"),
            )
        ]

    return Section(
        "cost",
        "Quality against cost",
        "A dotted line joins the Pareto front: those whose mean no other variant beats at the same cost or less. It is "
        "a front of means, without unstable variants, and says nothing of whether its steps are resolved. Bars are "
        "standard deviations over seeds. A hollow marker is a variant that did not get the baseline's budget: its "
        "difference is not at equal cost.",
        per_task(material, blocks),
    )
