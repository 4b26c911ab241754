"""The figures of a study in a notebook, as Matplotlib figures: those of the report, each of one task."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from ablab.analysis.scaling import Axis
from ablab.config.nearest import nearest
from ablab.errors import UserError
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.figures.canvas import Drawing


class Plots:
    """The figures of the report, each of one task (default: the first), as Matplotlib figures.

    Every method raises UserError for a task that is not there, and where there is nothing to draw.
    """

    def __init__(self, context: ReportContext) -> None:
        self._context = context

    def forest(self, task: str | None = None) -> Figure:
        """Effects with intervals, and a tick for every seed."""
        return self._drawn(drawings.forest, task)

    def slopes(self, task: str | None = None) -> Figure:
        """Seed by seed, from the baseline to the variant."""
        return self._drawn(drawings.slopes, task)

    def detectable(self, task: str | None = None) -> Figure:
        """Detectable effects beside those that were found."""
        return self._drawn(drawings.detectable, task)

    def curves(self, task: str | None = None) -> Figure:
        """Learning curves with t-bands, by step and by seconds."""
        return self._drawn(drawings.curves, task)

    def differences(self, task: str | None = None) -> Figure:
        """The course of the paired difference to the baseline."""
        return self._drawn(drawings.differences, task)

    def cost(self, task: str | None = None) -> Figure:
        """Quality against FLOPs, time, speed and memory, with Pareto fronts."""
        return self._drawn(drawings.cost, task)

    def scaling(self, over: Axis = "seq_len") -> Figure:
        """Costs and quality over the length of the sequences, or over the "parameters", on logarithmic axes."""
        return self._drawn(lambda context, _: drawings.scaling(context, over), None)

    def laws(self, task: str | None = None) -> Figure:
        """Losses over compute with their laws, of the ladder that the task is a size of."""
        self._need_one_baseline("over scale nothing is said")
        return self._drawn(drawings.laws, task)

    def over_scale(self, task: str | None = None) -> Figure:
        """Effects at each size of that ladder, and what is foreseen of them at ten times the largest compute."""
        self._need_one_baseline("over scale nothing is said")
        return self._drawn(drawings.over_scale, task)

    def lengths(self, task: str | None = None) -> Figure:
        """The metric over the length of sequences that the runs were evaluated on (`ablab evaluate`)."""
        return self._drawn(drawings.lengths, task)

    def interactions(self, first: str, second: str, task: str | None = None) -> Figure:
        """Interactions of the options of two factors, beyond the sum of their effects."""
        self._need_one_baseline("nothing is said of interactions")
        known = self._context.interactions(choose_task(self._context, task)).factors
        for name in (first, second):
            if name not in known:
                raise UserError(f"{name} is no factor that varies{nearest(name, known)}")
        return self._drawn(lambda context, chosen: drawings.interaction(context, chosen, (first, second)), task)

    def _need_one_baseline(self, without: str) -> None:
        baselines = self._context.comparisons.baselines
        if baselines.steps:
            raise UserError(f'{without} where each is beside the one before it; load with baseline="{baselines.first}"')

    def _drawn(self, draw: Callable[[ReportContext, str], Drawing | None], task: str | None) -> Figure:
        chosen = choose_task(self._context, task)
        found = draw(self._context, chosen)
        if found is None:
            raise UserError(f"{chosen}: nothing to draw, since no finished runs have what this figure shows")
        return found.figure


def choose_task(context: ReportContext, task: str | None) -> str:
    """The task of that name, the first one if none is named. Raises UserError for any other."""
    if task is None:
        return context.tasks[0]
    if task not in context.tasks:
        raise UserError(f"task {task}: no run has it{nearest(task, context.tasks)}")
    return task
