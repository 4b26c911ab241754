"""Do two changes add up? Differences of differences, and the analysis of variance as a second view."""

from __future__ import annotations

import pandas as pd

from ablab.analysis.anova import Anova, anova
from ablab.analysis.interactions import Interaction, Interactions
from ablab.errors import UserError
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.figures.canvas import some_of
from ablab.report.formatting import MISSING, confidence, decimals_for, number, p_value, plural, share
from ablab.report.html.blocks import Block, Section, per_task, svg
from ablab.report.study_sentences import interactions_sentence, pair_label

_VARIANCE = "Type II, with the seed as a block; p is not adjusted. A second view, from which no verdict follows."
_MOST_PAIRS = 6  # of factors that are drawn
_MOST_ROWS = 60  # of the table


def interactions(context: ReportContext) -> Section | None:
    """None where fewer than two factors vary on every task."""

    def blocks(task: str) -> list[Block]:
        found = context.interactions(task)
        if len(found.factors) < 2:
            return []
        if not found.visible:
            return [Block(otherwise=interactions_sentence(found))]
        made = [
            Block(
                title=" and ".join(pair),
                text=_meaning(context, task, pair),
                figure=svg(context, drawings.interaction(context, task, pair), "interactions", task, number),
            )
            for number, pair in enumerate(found.pairs[:_MOST_PAIRS])
        ]
        left_out = some_of(len(made), len(found.pairs), "pairs of factors", "the first of the plan")
        return [
            Block(text=f"{interactions_sentence(found)} {left_out}".strip()),
            *made,
            *_tables(found),
            *_variance(context, task),
        ]

    made = per_task(context, blocks)
    if not made:
        return None
    return Section(
        "interactions",
        "Interactions",
        "What two options do together beyond the sum of what each does alone, in the metric's unit: differences of "
        "differences within a seed. Hatched cells are not resolved.",
        made,
    )


def _meaning(context: ReportContext, task: str, pair: tuple[str, str]) -> str:
    """Say what the numbers of a figure are measured from, and what their sign says."""
    table, made = context.runs.table, context.comparisons
    base = table[table["variant"] == made.baseline].iloc[0]
    options = " and ".join(f"{factor}={base[factor]}" for factor in pair)
    return (
        f"From the baseline's {options}. Above 0, {made.metrics[task]} is higher than the sum of both effects makes "
        f"it; below 0, lower ({'lower' if context.direction(task) == 'min' else 'higher'} is better)."
    )


def _variance(context: ReportContext, task: str) -> list[Block]:
    if len(context.drawn(task).variants) < sum(of == task for of, _ in context.runs.places):
        return []  # it fits all variants at once, in a time that grows with the cube of their number
    try:
        found = anova(context.comparable, task, context.comparisons.metrics[task], context.comparisons.last_k)
    except UserError as reason:
        return [Block(otherwise=f"{reason}.")]
    rows = [
        {
            "source": row["source"],
            "sum of squares": f"{row['sum_sq']:.3g}",
            "df": f"{row['df']:.0f}",
            "F": MISSING if pd.isna(row["F"]) else f"{row['F']:.3g}",
            "p": MISSING if pd.isna(row["p"]) else p_value(row["p"]).removeprefix("= "),
            "partial η²": MISSING if pd.isna(row["partial_eta_sq"]) else share(row["partial_eta_sq"]),
        }
        for row in found.table.to_dict("records")
    ]
    left_out = _left_out(found, context.comparisons.metrics[task])
    return [Block(title="Analysis of variance", text=_VARIANCE, table=pd.DataFrame(rows), lines=left_out)]


def _left_out(found: Anova, metric: str) -> list[str]:
    """Say what the model leaves out, and why."""
    not_crossed, confounded = ", ".join(found.not_crossed), ", ".join(found.confounded)
    lines = {
        f"Not in the model, as not every combination has finished runs: {not_crossed}.": not_crossed,
        f"{plural(found.left_out, 'run')} without a finite {metric} left out.": found.left_out,
        f"Not in the model, as the finished runs do not tell them apart: {confounded}.": confounded,
    }
    return [line for line, applies in lines.items() if applies]


def _tables(found: Interactions) -> list[Block]:
    """The table; of very many, those that are resolved and then the largest."""
    ranked = sorted(found.items, key=lambda item: (not item.resolved, -abs(item.effect or 0.0)))[:_MOST_ROWS]
    shown = [item for item in found.items if item in ranked] if len(found.items) > _MOST_ROWS else found.items
    left_out = f"{len(shown)} of {len(found.items):,} are shown: those that are resolved, and then the largest."
    return [Block(text=left_out if len(shown) < len(found.items) else "", table=pd.DataFrame(map(_row, shown)))]


def _row(item: Interaction) -> dict[str, str]:
    interval = item.interval
    digits = decimals_for((interval[1] - interval[0]) / 2 if interval else item.effect or 0.0)
    shown = [number(value, digits, signed=True) for value in interval or ()]
    return {
        "together": pair_label(item),
        f"beyond the sum, {item.metric}": MISSING if item.effect is None else number(item.effect, digits, signed=True),
        f"{confidence(item.level)} CI": f"{shown[0]} to {shown[1]}" if shown else MISSING,
        "Holm p": MISSING if item.p_adjusted is None else p_value(item.p_adjusted).removeprefix("= "),
        "seeds": str(len(item.seeds)),
        "resolved": ("yes" if item.resolved else "no") + (", preliminary" if item.preliminary else ""),
    }
