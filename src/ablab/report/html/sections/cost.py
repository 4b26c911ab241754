"""Quality beside what it cost."""

from __future__ import annotations

from ablab.analysis.pareto import unequal_budgets
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.formatting import budget_text
from ablab.report.html.sections.base import Block, Section, per_task, svg
from ablab.report.tables import cost_table


def cost(context: ReportContext) -> Section:
    baseline = context.comparisons.baseline

    def blocks(task: str) -> list[Block]:
        unequal = unequal_budgets(context.runs, task, baseline)
        drawn = svg(context, drawings.cost(context, task), "cost", task)
        table = cost_table(context, task)
        table["budget"] = [budget_text(unequal.get(variant, {})) for variant in table["variant"]]
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
        per_task(context, blocks),
    )
