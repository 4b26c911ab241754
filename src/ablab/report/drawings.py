"""The figures of a study: one function each, from its material and a task. The report and notebooks show the same."""

from __future__ import annotations

from ablab.analysis.curves import By, aligned, difference
from ablab.analysis.pareto import unequal_budgets
from ablab.analysis.scaling import Axis
from ablab.report.figures.canvas import Drawing
from ablab.report.figures.cost import quality_and_cost
from ablab.report.figures.curves import Panel
from ablab.report.figures.curves import curves as curve_panels
from ablab.report.figures.detectable import detectable_effects
from ablab.report.figures.forest import forest as forest_plot
from ablab.report.figures.interactions import interaction_heatmap
from ablab.report.figures.scaling import power_laws
from ablab.report.figures.slopes import slopes as slope_plot
from ablab.report.material import Material
from ablab.report.tables import Row

_TRAINING = "train_loss"


def forest(material: Material, task: str) -> Drawing | None:
    """Effects with intervals; None if no variant shares a finished seed with the baseline."""
    return forest_plot(material.compared(task), material.looks)


def slopes(material: Material, task: str) -> Drawing | None:
    """From the baseline's value to the variant's, seed by seed."""
    return slope_plot(material.compared(task), material.looks)


def detectable(material: Material, task: str) -> Drawing | None:
    """What these seeds could have shown, beside what they did; None without an interval."""
    return detectable_effects(material.compared(task), material.looks)


def cost(material: Material, task: str) -> Drawing | None:
    """Quality against FLOPs, time, speed and memory; None if no run ended well."""
    unequal = unequal_budgets(material.drawn(task), task, material.comparisons.baseline)
    return quality_and_cost(_shown(material, task), material.direction(task), unequal, material.looks)


def interaction(material: Material, task: str, factors: tuple[str, str]) -> Drawing | None:
    """What the options of two factors do together beyond the sum of their effects; None if it is not known."""
    found = material.interactions(task)
    effects, resolved = found.matrix(*factors)
    effects.index.name, effects.columns.name = factors
    return interaction_heatmap(effects, resolved, found.metric)


def scaling(material: Material, over: Axis) -> Drawing | None:
    """Costs and quality over the length of the sequences or the parameters; None if the runs do not differ in it."""
    return power_laws(material.scaling.get(over, []), material.looks)


def curves(material: Material, task: str) -> Drawing | None:
    """The compared metric and the training loss by step, the metric also by tokens and by seconds where these differ.

    None without learning curves.
    """
    metric = material.comparisons.metrics[task]
    found = [_panel(material, task, name, "step") for name in dict.fromkeys([metric, _TRAINING]) if name]
    found += [_panel(material, task, metric, by) for by in _others(material, task)]
    return curve_panels(found, material.looks)


def differences(material: Material, task: str) -> Drawing | None:
    """The compared metric, variant minus baseline on the same seed, by step."""
    metric = material.comparisons.metrics[task]
    bands = difference(material.drawn(task), task, metric, material.comparisons.baseline, reader=material.curves)
    return curve_panels([Panel("step", f"difference in {metric}", bands, zero=True)], material.looks, columns=1)


def trace(material: Material, task: str, metric: str) -> Drawing | None:
    """One curve of the training by step, such as the learning rate."""
    return curve_panels([_panel(material, task, metric, "step")], material.looks)


def _panel(material: Material, task: str, metric: str, by: By) -> Panel:
    found = aligned(material.drawn(task), task, metric, by, material.curves)
    return Panel(found.axis, metric, found.bands, found.diverged)


def _others(material: Material, task: str) -> list[By]:
    """Seconds, and tokens where the variants did not all have as many in a step."""
    of_task = material.runs.table[material.runs.table["task"] == task]
    ok = of_task[of_task["status"] == "ok"]
    return ["seconds"] if (ok["tokens"] / ok["steps"]).nunique() < 2 else ["tokens", "seconds"]


def _shown(material: Material, task: str) -> list[Row]:
    shown = material.drawn(task).variants
    return [row for row in material.rows(task) if row["variant"] in shown]
