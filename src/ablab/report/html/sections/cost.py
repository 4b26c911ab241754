"""Quality beside what it cost, how costs grow, and what spreading a run over several processes cost and brought."""

from __future__ import annotations

import pandas as pd

from ablab.analysis.pareto import unequal_budgets
from ablab.analysis.scaling import Exponent
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.extrapolation import extrapolation_notes, extrapolation_table
from ablab.report.figures.cost import COST_AXES
from ablab.report.formatting import MISSING, budget_text, confidence, decimals_for, number, without_zero
from ablab.report.html.blocks import Block, Section, per_task, svg, to_svg
from ablab.report.parallel import parallel_notes, parallel_table
from ablab.report.tables import cost_table, inference_table, interval_column, quality_table


def cost(context: ReportContext) -> Section:
    baselines = context.comparisons.baselines

    def blocks(task: str) -> list[Block]:
        unequal = unequal_budgets(context.runs, task, baselines)
        drawn = svg(context, drawings.cost(context, task), "cost", task)
        table = cost_table(context, task)
        table["budget"] = [budget_text(unequal.get(variant, {})) for variant in table["variant"]]
        return [
            Block(
                figure=drawn,
                otherwise="No costs to draw: no run ended well.",
                table=table if unequal else table.drop(columns="budget"),
            ),
            *_fronts(context, task),
        ]

    return Section(
        "cost",
        "Quality against cost",
        "A filled marker is on the Pareto front: resolved better than every variant that costs as little or less, or "
        "the cheapest. A hollow one is perhaps on it: neither that nor the contrary is resolved. A faint one is off "
        "it, or not ranked. All pairs of variants on all tasks are one family of their own, at the level "
        f"{without_zero(context.ranking.level)} together. Bars are standard deviations over seeds. A ring is around a "
        "variant that did not get the baseline's budget: its difference is not at equal cost.",
        per_task(context, blocks),
    )


def _fronts(context: ReportContext, task: str) -> list[Block]:
    """The fronts in words; nothing where there is one variant, or no cost."""
    found = context.fronts(task)
    if len(found) < 2 or len(found.columns) < 2:
        return []
    titles = {name: COST_AXES[name].title if name in COST_AXES else name.replace("_", " ") for name in found.columns}
    return [Block(title="On the front?", table=found.replace("", MISSING).rename(columns=titles))]


_IN_USE_INTRO = (
    "What a trained model costs, counted and not measured: the bytes that it keeps of a sequence, in single precision, "
    "the FLOPs of its last token given what is kept, and those of a prompt as long as those of the "
    "training. Where a variant keeps nothing, each token computes the whole sequence again. Lengths beyond those of "
    "the training say what it would cost, not that it would be any good."
)


def inference(context: ReportContext) -> Section | None:
    """None where all variants cost the same."""

    def blocks(task: str) -> list[Block]:
        table = inference_table(context, task)
        return [] if table.empty else [Block(table=table)]

    made = per_task(context, blocks)
    return Section("inference", "Cost in use", _IN_USE_INTRO, made) if made else None


_BASIS = {"seeds": "t over seeds", "fit": "of the fit", "counted": "counted, not measured", None: "no interval"}


def scaling(context: ReportContext) -> Section | None:
    """None where the runs differ in neither."""
    blocks = []
    for over, found in context.scaling.items():
        drawn = to_svg(drawings.scaling(context, over), f"scaling-{over}")
        rows = [_exponent_row(one) for of_figure in found for one in of_figure if one.alpha is not None]
        if rows:
            blocks.append(Block(title=f"By {over}", figure=drawn, table=pd.DataFrame(rows)))
    if not blocks:
        return None
    return Section(
        "scaling",
        "Scaling",
        "Slopes of straight lines through the logarithms: mean growth over the range that was run, which says little "
        "outside it.",
        blocks,
    )


def _exponent_row(one: Exponent) -> dict[str, str]:
    low, high = one.interval if one.interval and one.basis != "counted" else (None, None)
    half = (high - low) / 2 if low is not None and high is not None else 0.0
    digits = min(max(decimals_for(half), 2), 4) if half else 2
    return {
        "series": one.series,
        "metric": one.y_name,
        "from": f"{one.x[0]:,.0f}",
        "to": f"{one.x[-1]:,.0f}",
        "exponent": MISSING if one.alpha is None else number(one.alpha, digits),
        f"{confidence(one.level)} CI": f"{number(low, digits)} to {number(high, digits)}"
        if low is not None and high is not None
        else MISSING,
        "interval": _BASIS[one.basis],
        "seeds": str(one.seeds),
    }


_BROUGHT = ("tokens/s", "efficiency", "waiting", "largest peak memory")
_PARALLEL_INTRO = (
    "What a process hands to collectives (payload) and what it sends to others in a training step: means over "
    "processes, steps and the runs that ended well, without evaluation, checkpoints and set-up. What is sent is what "
    "the algorithm that sends least would send, a ring. The float32 gradient, which plain data parallel training hands "
    "in once a step, is 4 bytes for each trainable parameter. Overlap is the share of the time in communication in "
    "which the thread that trains computed, waiting the share of a step in which it did not. Efficiency is tokens a "
    "second over those of one process with the same batch in all, seed by seed. The largest peak memory is that of the "
    "process that needed most."
)


def parallelism(context: ReportContext) -> Section | None:
    """None where every run was of one process."""
    interval = interval_column(context)

    def blocks(task: str) -> list[Block]:
        table = parallel_table(context, task)
        if table.empty:
            return []
        quality = quality_table(context, task)
        table = table.merge(quality[["variant", "effect", interval]], on="variant", how="left")
        outcome = ["variant", "processes", "effect", interval, *_BROUGHT]
        further = extrapolation_table(context, task)
        notes = extrapolation_notes(context, task)
        model = [Block(title="On other links and more devices", table=further, lines=notes)]
        return [
            Block(title="Sent in a step", table=table[[name for name in table if name not in outcome[2:]]]),
            Block(title="What it brought", table=table[outcome], lines=parallel_notes(context, task)),
            *(model if not further.empty else []),
        ]

    made = per_task(context, blocks)
    return Section("parallelism", "Parallelism", _PARALLEL_INTRO, made) if made else None
