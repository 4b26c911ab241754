"""What each variant was tuned to, at which price, and how it responds to its learning rate."""

from __future__ import annotations

import pandas as pd

from ablab.analysis.tuned import Tuned, mean, tunings_on
from ablab.config.tune import RATE
from ablab.report.context import ReportContext
from ablab.report.figures.responses import over_rates
from ablab.report.formatting import MISSING
from ablab.report.html.blocks import Block, Section, per_task, svg
from ablab.report.tuning import setting


def tuning(context: ReportContext) -> Section | None:
    """None where nothing was tuned, or no tuning run is kept."""

    def blocks(task: str) -> list[Block]:
        found, metric = tunings_on(context.runs, task), context.comparisons.metrics[task]
        if not found:
            return []
        table = pd.DataFrame([_row(variant, tuned, metric) for variant, tuned in found.items()])
        shown = {variant: found[variant] for variant in context.drawn(task).variants if variant in found}
        drawn = over_rates(shown, metric, context.direction(task), context.styles)
        return [Block(figure=svg(context, drawn, "tuning", task), table=table)]

    made = per_task(context, blocks)
    if not made:
        return None
    return Section(
        "tuning",
        "Tuning",
        "Runs on seeds of their own, of which none is compared: each variant was tried at the same points, and trains "
        "with the best of them by the mean (the ring; dots are single seeds; what is far worse lies outside). Where "
        "another choice would have been nearly as good, the choice is noise, too, and intervals hold it.",
        made,
    )


def _row(variant: str, tuned: Tuned, metric: str) -> dict[str, str]:
    middle = None if tuned.chosen is None else mean(tuned.values(tuned.chosen, metric))
    return {
        "variant": variant,
        "chosen": ", ".join(f"{_name(key)}={setting(value)}" for key, value in tuned.settings.items()),
        f"{metric} there": MISSING if middle is None else f"{middle:.4g}",
        "at an end of its grid": ", ".join(f"{end} {_name(key)}" for key, _, end in tuned.edges) or "no",
        "points": f"{len(tuned.points):,}",
        "tuning runs": f"{len(tuned.points) * len(tuned.seeds):,}",
        "has not": ", ".join(tuned.lacking) or MISSING,
    }


def _name(key: str) -> str:
    return "lr" if key == RATE else key
