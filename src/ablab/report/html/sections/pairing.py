"""What pairing by seed has earned: correlations over the training, and by depth, and how much of the rest is chaos."""

from __future__ import annotations

import pandas as pd

from ablab.analysis.chaos import ChaosShare, bounded, resolvable
from ablab.analysis.earned import Earned, earned_by_depth, spaced
from ablab.report.context import ReportContext
from ablab.report.formatting import MISSING, decimals_for, number, share
from ablab.report.html.blocks import Block
from ablab.report.study_notes import MOST_SAVED

_BY_STEP = (
    "The correlation r of the two runs of a pair at steps of the training, and in brackets how many times as many "
    "seeds unpaired runs would need. Near × 1 pairing saves nothing: docs/pairing.md says what helps."
)
_CHAOS = (
    " Chaos is the share of what is left that the baseline shows against itself when it differs by rounding alone, as "
    "the seeds allow it (95% interval)."
)


def earned_blocks(context: ReportContext, task: str) -> list[Block]:
    """Tables of what the pairs of a task have earned by step, and by depth where that varies."""
    if task not in context.tasks:  # the suite has no curves of its own
        return []
    blocks = []
    if by_step := {variant: points for variant, points in context.earned(task).items() if points}:
        chaos = any(points[-1].chaos for points in by_step.values())
        text = _BY_STEP + (_CHAOS if chaos else "")
        blocks.append(Block(title="What pairing earned", text=text, table=_step_table(context, task, by_step, chaos)))
    if depths := earned_by_depth(context.runs, context.compared(task), context.comparisons.last_k):
        rows = [
            {"layers": str(each.layers), "comparisons": str(each.comparisons), **_cell(each.correlation, each.saving)}
            for each in depths
        ]
        blocks.append(Block(title="By depth", text="Medians over the comparisons.", table=pd.DataFrame(rows)))
    return blocks


def _step_table(context: ReportContext, task: str, by_step: dict[str, list[Earned]], with_chaos: bool) -> pd.DataFrame:
    labels = {item.variant: item.label for item in context.compared(task)}
    steps = spaced(sorted({point.step for points in by_step.values() for point in points}))
    rows = []
    for variant, points in by_step.items():
        at = {point.step: point for point in points}
        row = {"variant": labels.get(variant, variant)}
        row |= {f"step {step:,}": _at(at.get(step)) for step in steps}
        row["sd of differences"] = number(points[-1].sd, decimals_for(points[-1].sd))
        if with_chaos:
            row["chaos"] = _chaos(points[-1].chaos)
        rows.append(row)
    return pd.DataFrame(rows)


def _at(point: Earned | None) -> str:
    if point is None or point.correlation is None or point.saving is None:
        return MISSING
    return f"{share(point.correlation)} (× {_times(point.saving)})"


def _cell(correlation: float, saving: float) -> dict[str, str]:
    return {"r": share(correlation), "seeds if unpaired": f"× {_times(saving)}"}


def _times(saving: float) -> str:
    return number(saving, decimals_for(saving)) if saving < MOST_SAVED else f"over {MOST_SAVED:,}"


def _chaos(found: ChaosShare | None) -> str:
    if found is None:
        return MISSING
    likely, low, high = bounded(found)
    return f"{likely:.0%} ({low:.0%} to {high:.0%})" if resolvable(found) else "not known"
