"""What these seeds could have shown."""

from __future__ import annotations

import pandas as pd

from ablab.analysis.comparison import Comparison
from ablab.analysis.power import MOST_SEEDS, POWER, detectable, seeds_needed
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.formatting import MISSING, decimals_for, number, share
from ablab.report.html.sections.base import Block, Section, per_task, svg


def power(context: ReportContext) -> Section | None:
    """None where no comparison has an interval."""

    def blocks(task: str) -> list[Block]:
        items = [item for item in context.compared(task) if item.estimate and item.interval]
        drawn = svg(context, drawings.detectable(context, task), "power", task)
        return [Block(figure=drawn, table=pd.DataFrame(map(_row, items)))] if items else []

    made = per_task(context, blocks, suite=True)
    if not made:
        return None
    return Section(
        "power",
        "What these seeds could have detected",
        f"An effect at the end of its bar would have been resolved in {POWER:.0%} of studies like this one, by one "
        "comparison before the correction for several; smaller ones would mostly have been missed. The marker is the "
        "size of the effect that was found, filled where its verdict is resolved. Seeds needed are a range, since "
        "the spread is known only roughly.",
        made,
    )


def _row(item: Comparison) -> dict[str, str]:
    assert item.estimate is not None
    limit = detectable(item.estimate, item.level)
    digits = decimals_for(limit)
    wanted = abs(item.margin or item.effect or 0.0)
    known = bool(wanted) and item.estimate.standard_error > 0
    return {
        "variant": item.label,
        "seeds": str(item.estimate.pairs),
        "r": MISSING if item.correlation is None else share(item.correlation),
        "sd of differences": number(item.estimate.sd, digits),
        "detectable": number(limit, digits),
        "found": number(item.effect or 0.0, digits, signed=True),
        f"seeds to resolve {'the margin' if item.margin else 'what was found'}": _needed(item, wanted)
        if known
        else MISSING,
    }


def _needed(item: Comparison, wanted: float) -> str:
    assert item.estimate is not None
    about, least, most = (
        f"over {MOST_SEEDS:,}" if seeds >= MOST_SEEDS else f"{seeds:,}"
        for seeds in seeds_needed(wanted, item.estimate, item.level)
    )
    return f"{about} ({least} to {most})"
