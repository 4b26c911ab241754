"""Results in a notebook: a folder of runs as DataFrames and Matplotlib figures; see `ablab.api`.

study = load("outputs/quickstart")
study.effects()        # one row per variant and task: effect, interval, p, verdict
study.plot.forest()    # a Matplotlib figure, as in the report
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Self

import pandas as pd

from ablab.analysis.anova import anova
from ablab.analysis.comparison import ComparisonSettings
from ablab.analysis.verdicts import Intervals, Split
from ablab.config.schema import INTERVALS, SPLITS
from ablab.errors import UserError
from ablab.report.context import ReportContext
from ablab.report.declared import declared_comparison
from ablab.report.formats import render
from ablab.report.formats.contents import all_lines
from ablab.report.formats.scale import scale_rows
from ablab.report.formats.text import html
from ablab.report.plots import Plots, choose_task


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
        for name, value, known in (("split", split, SPLITS), ("intervals", intervals, INTERVALS)):
            if value not in (None, *known):
                raise UserError(f"{name}={value}: must be {' or '.join(known)}")
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

    def over_scale(self) -> pd.DataFrame:
        """One row per variant and ladder: the verdict about ten times the largest compute, the effect there, its
        interval, and the sentence. Empty without a ladder, and where each is compared with the one before it."""
        return pd.DataFrame(scale_rows(self._context.over_scale)).drop(columns="row", errors="ignore")

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
        return anova(self._context.comparable, chosen, self.comparisons.metrics[chosen], self.comparisons.last_k).table

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
