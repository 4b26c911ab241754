"""The figures of a study: one function each, from the context and a task. The report and notebooks show the same."""

from __future__ import annotations

from collections.abc import Iterator

from ablab.analysis.curves import Aligned, By, aligned, difference
from ablab.analysis.over_scale.study import LadderFindings
from ablab.analysis.pareto import unequal_budgets
from ablab.analysis.scaling import Axis
from ablab.report.context import TRAINING_LOSS, ReportContext
from ablab.report.figures import over_scale as over_scale_figures
from ablab.report.figures.canvas import Drawing
from ablab.report.figures.cost import quality_and_cost
from ablab.report.figures.curves import Panel
from ablab.report.figures.curves import curves as curve_panels
from ablab.report.figures.effects import detectable_effects
from ablab.report.figures.effects import forest as forest_plot
from ablab.report.figures.effects import slopes as slope_plot
from ablab.report.figures.interactions import interaction_heatmap
from ablab.report.figures.lengths import over_lengths
from ablab.report.figures.scaling import power_laws
from ablab.report.formatting import budget_text
from ablab.report.rows import Row


def forest(context: ReportContext, task: str) -> Drawing | None:
    """Effects with intervals; None if no variant shares a finished seed with the baseline."""
    return forest_plot(context.compared(task), context.styles)


def slopes(context: ReportContext, task: str) -> Drawing | None:
    """From the baseline's value to the variant's, seed by seed."""
    return slope_plot(context.compared(task), context.styles)


def detectable(context: ReportContext, task: str) -> Drawing | None:
    """Detectable effects beside those that were found; None without an interval."""
    return detectable_effects(context.compared(task), context.styles)


def cost(context: ReportContext, task: str) -> Drawing | None:
    """Quality against FLOPs, time, speed and memory; None if no run ended well."""
    differing = unequal_budgets(context.runs, task, context.comparisons.baselines)
    drawn = set(context.drawn(task).variants)
    unequal = {variant: budget_text(each) for variant, each in differing.items() if variant in drawn}
    members = {str(cost): found for cost, found in context.fronts(task).set_index("variant").to_dict().items()}
    return quality_and_cost(_shown(context, task), members, unequal, context.styles)


def interaction(context: ReportContext, task: str, factors: tuple[str, str]) -> Drawing | None:
    """Interactions of the options of two factors, beyond the sum of their effects; None if it is not known."""
    found = context.interactions(task)
    effects, resolved = found.matrix(*factors)
    effects.index.name, effects.columns.name = factors
    return interaction_heatmap(effects, resolved, found.metric)


def scaling(context: ReportContext, over: Axis) -> Drawing | None:
    """Costs and quality over the length of the sequences or the parameters; None if the runs do not differ in it."""
    return power_laws(context.scaling.get(over, []), context.styles)


def laws(context: ReportContext, task: str) -> Drawing | None:
    """The losses of the ladder that the task is a size of, with their laws; None where it is of none."""
    return next((over_scale_figures.laws(each, context.styles) for each in _ladders(context, task)), None)


def over_scale(context: ReportContext, task: str) -> Drawing | None:
    """The effects at each size of that ladder, and those foreseen beyond the largest; None where there is none."""
    return next((over_scale_figures.effects_ahead(each, context.styles) for each in _ladders(context, task)), None)


def _ladders(context: ReportContext, task: str) -> Iterator[LadderFindings]:
    return (each for each in context.over_scale if task in {rung.place for rung in each.ladder.rungs})


def lengths(context: ReportContext, task: str) -> Drawing | None:
    """The metric over the length of sequences in evaluations elsewhere; None if they do not differ in it."""
    shown = context.drawn(task).variants
    found = (over_lengths(each, context.styles, shown) for each in context.elsewhere(task))
    return next((drawn for drawn in found if drawn is not None), None)


def curves(context: ReportContext, task: str) -> Drawing | None:
    """The compared metric and the training loss by step, the metric also by tokens and by seconds where these differ.

    None without learning curves.
    """
    metric = context.comparisons.metrics[task]
    found = [_panel(context, task, name, "step") for name in dict.fromkeys([metric, TRAINING_LOSS]) if name]
    found += [_panel(context, task, metric, by) for by in _others(context, task)]
    return curve_panels(found, context.styles)


def differences(context: ReportContext, task: str) -> Drawing | None:
    """The compared metric, variant minus its baseline on the same seed, by step."""
    metric = context.comparisons.metrics[task]
    found = difference(context.runs, task, metric, context.comparisons.baselines, reader=context.curves)
    bands = {variant: band for variant, band in found.items() if variant in context.drawn(task).variants}
    return curve_panels([Panel("step", f"difference in {metric}", bands, zero=True)], context.styles, columns=1)


def trace(context: ReportContext, task: str, metric: str) -> Drawing | None:
    """One curve of the training by step, such as the learning rate."""
    return curve_panels([_panel(context, task, metric, "step")], context.styles)


def _panel(context: ReportContext, task: str, metric: str, by: By) -> Panel:
    found = aligned(context.drawn(task), task, metric, by, context.curves)
    return Panel(_across(found), metric, found.bands, found.diverged)


def _across(found: Aligned) -> str:
    """Name the horizontal axis."""
    if found.by == "tokens":
        return "tokens (at the run's mean per step)" if found.approximate else "tokens"
    return "step" if found.by == "step" else "training time in seconds, at the run's mean speed"


def _others(context: ReportContext, task: str) -> list[By]:
    """Seconds, and tokens where the variants did not all have as many in a step."""
    of_task = context.runs.table[context.runs.table["task"] == task]
    ok = of_task[of_task["status"] == "ok"]
    return ["seconds"] if (ok["tokens"] / ok["steps"]).nunique() < 2 else ["tokens", "seconds"]


def _shown(context: ReportContext, task: str) -> list[Row]:
    shown = context.drawn(task).variants
    return [row for row in context.rows(task) if row["variant"] in shown]
