"""Results in a notebook: a folder of runs as DataFrames and Matplotlib figures; see `ablab.api`.

study = load("outputs/quickstart")
study.effects()        # one row per variant and task: effect, interval, p, verdict
study.plot.forest()    # a Matplotlib figure, as in the report
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Self

import pandas as pd
from matplotlib.figure import Figure

from ablab.analysis.anova import anova
from ablab.analysis.comparison import ComparisonSettings
from ablab.analysis.scaling import Axis
from ablab.analysis.verdicts import Intervals, Split
from ablab.config.nearest import nearest
from ablab.errors import UserError
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.declared import declared_comparison
from ablab.report.figures.canvas import Drawing
from ablab.report.formats import render
from ablab.report.formats.contents import all_lines
from ablab.report.formats.text import html


class LoadedStudy:
    """A study, its runs compared. Every method gives a new DataFrame.

    Attributes:
        comparisons: the verdicts with all that they rest on.
        folders: where its runs lie.
        plot: the figures of the report (`Plots`).
    """

    def __init__(self, context: ReportContext, folders: Sequence[Path] = ()) -> None:
        self._context = context
        self.folders = [*folders]
        self.comparisons = context.comparisons
        self.plot = Plots(self._context)

    @classmethod
    def read(
        cls,
        *folders: str | PathLike[str],
        baseline: str | None = None,
        metric: str | None = None,
        margin: float | None = None,
        last_k: int | None = None,
        split: Split | None = None,
        intervals: Intervals | None = None,
        only: Sequence[str] = (),
    ) -> Self:
        """The runs below `folders`. Arguments and errors are those of `ablab.load`; `only` are filters, "seed=0,1"."""
        paths = [Path(folder) for folder in folders]
        asked = ComparisonSettings(
            baseline=baseline, metric=metric, margin=margin, last_k=last_k, split=split, intervals=intervals
        )
        settings = declared_comparison(paths, **asked)
        return cls(ReportContext.read(paths, only, **settings), paths)

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run: task, variant, seed, status, factors, metrics, mechanism metrics, costs."""
        return self._context.runs.table.copy()

    @property
    def tasks(self) -> list[str]:
        return self._context.tasks

    @property
    def verdicts(self) -> list[str]:
        """The lines that `ablab compare` ends with."""
        return all_lines(self._context)

    def effects(self) -> pd.DataFrame:
        """One row per task and variant: metric, effect, interval, adjusted p, correlation, verdict, costs."""
        return self._context.variant_rows.copy()

    def health(self) -> pd.DataFrame:
        """One row per run: how it ended and why, its metric and costs."""
        return self._context.run_rows.copy()

    def interactions(self, task: str | None = None) -> pd.DataFrame:
        """One row per pair of options: what they do together beyond the sum of their effects, with its interval."""
        found = self._context.interactions(self._task(task))
        rows = []
        for item in found.items:
            low, high = item.interval or (math.nan, math.nan)
            rows.append(
                {
                    **dict(zip(item.factors, item.options, strict=True)),
                    "metric": item.metric,
                    "effect": math.nan if item.effect is None else item.effect,
                    "low": low,
                    "high": high,
                    "p_adjusted": math.nan if item.p_adjusted is None else item.p_adjusted,
                    "seeds": len(item.seeds),
                    "resolved": item.resolved,
                }
            )
        return pd.DataFrame(rows)

    def fronts(self, task: str | None = None) -> pd.DataFrame:
        """One row per variant: is it on the Pareto front of each cost? "on", "perhaps", "off", "" if not ranked."""
        return self._context.fronts(self._task(task)).copy()

    def scaling(self) -> pd.DataFrame:
        """One row per metric and series: its exponent over sequence length or parameters, with its interval."""
        return pd.DataFrame(
            [
                {
                    "over": one.x_name,
                    "metric": one.y_name,
                    "series": one.series,
                    "exponent": one.alpha,
                    "low": one.interval[0] if one.interval else math.nan,
                    "high": one.interval[1] if one.interval else math.nan,
                    "basis": one.basis,
                    "seeds": one.seeds,
                }
                for found in self._context.scaling.values()
                for exponents in found
                for one in exponents
            ]
        )

    def evaluations(self) -> pd.DataFrame:
        """One row per run and evaluation elsewhere: its name, length, checkpoint and data, and every metric."""
        columns = ("task", "variant", "seed")
        table = self._context.runs.table
        return pd.DataFrame(
            [
                {
                    **dict(zip(columns, where, strict=True)),
                    "evaluation": each.name,
                    "seq_len": each.length,
                    "checkpoint": each.checkpoint,
                    "corpus": each.corpus.name,
                    **each.metrics,
                }
                for where, record in zip(
                    zip(*(table[name].tolist() for name in columns), strict=True),
                    self._context.runs.records,
                    strict=True,
                )
                for each in sorted(record.evaluations.values(), key=lambda each: (each.length or 0, each.name))
            ]
        )

    def anova(self, task: str | None = None) -> pd.DataFrame:
        """The type-II analysis of variance, with seed as a block. Raises UserError where it cannot be had."""
        chosen = self._task(task)
        return anova(self._context.runs, chosen, self.comparisons.metrics[chosen], self.comparisons.last_k).table

    def _task(self, task: str | None) -> str:
        return choose_task(self._context, task)

    def __repr__(self) -> str:
        return "\n".join(self.verdicts)

    def __str__(self) -> str:
        """What `ablab compare` prints."""
        return render(self._context).rstrip("\n")

    def _repr_html_(self) -> str:
        """What a notebook shows: the tables of quality, and the verdicts."""
        return html(self._context)


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

    def lengths(self, task: str | None = None) -> Figure:
        """The metric over the length of sequences that the runs were evaluated on (`ablab evaluate`)."""
        return self._drawn(drawings.lengths, task)

    def interactions(self, first: str, second: str, task: str | None = None) -> Figure:
        """Interactions of the options of two factors, beyond the sum of their effects."""
        known = self._context.interactions(choose_task(self._context, task)).factors
        for name in (first, second):
            if name not in known:
                raise UserError(f"{name} is no factor that varies{nearest(name, known)}")
        return self._drawn(lambda context, chosen: drawings.interaction(context, chosen, (first, second)), task)

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
