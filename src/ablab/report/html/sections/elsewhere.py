"""What finished runs are worth elsewhere: on longer sequences than they were trained on, on other data."""

from __future__ import annotations

import pandas as pd

from ablab.analysis.elsewhere import Elsewhere, Point
from ablab.report.context import ReportContext
from ablab.report.figures.lengths import over_lengths
from ablab.report.formatting import MISSING, metric_text
from ablab.report.html.blocks import Block, Section, per_task, svg
from ablab.report.rows import mean_sd

_INTRO = (
    "Finished runs, evaluated where they were not trained (ablab evaluate). Lines join means over seeds, bars are 95% "
    "t intervals of each mean by itself; a dotted line is the length of the training. At each length all variants see "
    "the same text, and another length sees other parts of it, unless task.eval_tokens is null. A verdict on one of "
    "these is given by --metric, as in --metric "
)


def elsewhere_section(context: ReportContext) -> Section | None:
    """None where no run was evaluated elsewhere."""
    made = per_task(context, lambda task: _blocks(context, task))
    if not made:
        return None
    first = next(each for task in context.tasks for each in context.elsewhere(task))
    return Section("elsewhere", "Evaluated elsewhere", f"{_INTRO}'{first.metric}@{first.names[-1]}'.", made)


def _blocks(context: ReportContext, task: str) -> list[Block]:
    shown = context.drawn(task).variants
    return [
        Block(
            title=f"{found.metric}{' by length' if found.lengths else ''}{f', {found.shared}' if found.shared else ''}",
            figure=svg(context, over_lengths(found, context.styles, shown), "elsewhere", task, number),
            table=elsewhere_table(found),
        )
        for number, found in enumerate(context.elsewhere(task))
    ]


def elsewhere_table(found: Elsewhere) -> pd.DataFrame:
    """A row for each variant, a column for each length, or for each evaluation: mean and standard deviation."""
    headings = [f"{length:,}" for length in found.lengths] or list(found.names)
    return pd.DataFrame(
        [
            {"variant": variant, **dict(zip(headings, map(_text, points), strict=True))}
            for variant, points in found.points.items()
        ]
    )


def _text(point: Point | None) -> str:
    return MISSING if point is None else metric_text(*mean_sd(list(point.values)))
