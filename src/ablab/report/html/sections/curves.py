"""How the runs learned, how soon each is as good as the baseline, and what can be reached at all."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from ablab.analysis.curves import By
from ablab.analysis.time_to_target import UNITS, Reached, TimeToTarget, time_to_target
from ablab.analysis.verdicts import Verdict
from ablab.errors import UserError
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.figures.ceilings import ceilings
from ablab.report.formatting import MISSING, confidence, number, without_zero
from ablab.report.html.blocks import Block, Section, per_task, svg
from ablab.report.theory import theory, theory_table

_NONE = "No learning curves: no metrics.csv beside the records."


def learning(context: ReportContext) -> Section:
    def blocks(task: str) -> list[Block]:
        drawn = svg(context, drawings.curves(context, task), "curves", task)
        apart = svg(context, drawings.differences(context, task), "curves", task, 1)
        made = [Block(figure=drawn, otherwise=_NONE)]
        if apart:
            made.append(Block(title="Difference to the baseline, seed by seed", figure=apart))
        return [*made, *_soon(context, task)]

    return Section(
        "curves",
        "Learning curves",
        "Lines are means over seeds, bands 95% t intervals at each point by itself, dotted lines with a hollow end "
        "runs that diverged, along the edge where they are beyond the others.",
        per_task(context, blocks),
    )


def _soon(context: ReportContext, task: str) -> list[Block]:
    """When the target is reached; nothing where no run of the baseline has a curve."""
    try:
        found = [_reached(context, task, by) for by in UNITS]
    except UserError:
        return []
    by_variant = [{item.variant: item for item in each.items} for each in found]
    rows = [_row(item, [each.get(item.variant) for each in by_variant], found[0]) for item in found[0].items]
    text = _time_text(found[0])
    return [Block(title="Time to target", text=text, table=pd.DataFrame(rows))] if rows else []


def _time_text(found: TimeToTarget) -> str:
    target = (
        f"the task's, {found.items[0].target:.4g}"
        if found.declared and found.items
        else "the best value that every finished run of the variant and of the baseline reached, which treats the two "
        "alike and depends on these runs"
    )
    return (
        f"When {found.metric} first is at its target, as a multiple of the baseline's time, seed by seed. The target "
        f"is {target}. A ratio is given only where every pair of runs got there, and not before its first evaluation. "
        "It holds for this target alone: where curves are flat, little in quality is much in time. The intervals of "
        f"all variants and tasks, by step and by seconds, hold at once: any excludes 1 in {without_zero(found.level)} "
        "of studies at most where nothing differs."
    )


def _reached(context: ReportContext, task: str, by: By) -> TimeToTarget:
    metric, baselines = context.comparisons.metrics[task], context.comparisons.baselines
    every = (context.unfiltered or context).runs  # whose intervals hold at once, also where some are shown
    found = time_to_target(every, task, metric, baselines, by, context.target(task), context.curves)
    blocked = {item.variant for item in context.comparisons.of_task(task) if item.verdict is Verdict.NOT_COMPARABLE}
    shown = [item for item in found.items if item.variant in context.variants and item.variant not in blocked]
    return replace(found, items=tuple(shown))


def _row(first: Reached, found: list[Reached | None], all_of: TimeToTarget) -> dict[str, str]:
    """`found` is the variant by steps and by seconds; None where its time is not known."""
    early = f", {len(first.early)} before the first evaluation" if first.early else ""
    row = {"variant": first.label, "target": f"{first.target:.4g}"}
    row["reached"] = f"{first.reached}/{len(first.times)}{early}"
    for by, item in zip(UNITS, found, strict=True):
        interval = item.interval if item else None
        factor = item.factor if item else None
        row[by] = MISSING if factor is None else f"× {number(factor, 2)}"
        row[f"simultaneous {confidence(all_of.level)} CI, {by}"] = (
            MISSING if interval is None else f"{number(interval[0], 2)} to {number(interval[1], 2)}"
        )
    return row


_WINDOWS = (
    " Ticks are single seeds. The ceiling of a window holds for one layer; several layers can pass values on from one "
    "to the next and exceed it."
)


def reach(context: ReportContext) -> Section | None:
    """None where nothing is known of any task."""
    windows = False

    def blocks(task: str) -> list[Block]:
        nonlocal windows
        known = theory(context.runs, task, context.comparisons.last_k)
        if known is None:
            return []
        windows = windows or known.windows
        drawn = svg(context, ceilings(known, context.styles), "theory", task) if known.windows else None
        return [Block(figure=drawn, table=theory_table(known))]

    made = per_task(context, blocks)
    intro = "Known values of the primary metric, by theory or counted in the data, beside the means over seeds."
    return Section("theory", "What can be reached", intro + (_WINDOWS if windows else ""), made) if made else None
