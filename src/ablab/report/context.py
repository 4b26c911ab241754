"""Runs, their comparison and what follows from both: computed once, and handed on to every view of a study.

The terminal's tables, the HTML report, TensorBoard's view, W&B's report and the notebook are made from one context
each; a sweep that ends makes one for all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Unpack

import pandas as pd

from ablab.analysis.comparison import Comparison, Comparisons, ComparisonSettings, compare
from ablab.analysis.earned import Earned, earned_by_step
from ablab.analysis.elsewhere import Elsewhere, elsewhere
from ablab.analysis.interactions import Interactions, all_interactions
from ablab.analysis.over_scale.study import LadderFindings, over_scale
from ablab.analysis.pairing import short_name, variants
from ablab.analysis.pareto import fronts
from ablab.analysis.ranking import Ranking, rank
from ablab.analysis.scaling import Axis, Exponent, scaling, varied
from ablab.analysis.selection import compare_and_select
from ablab.analysis.verdicts import Verdict
from ablab.config.axes import AXES
from ablab.report.figures.style import MOST_VARIANTS, Style, styles
from ablab.report.rows import Row, run_rows, suite_rows, variant_rows
from ablab.results.collect import Runs, collect
from ablab.results.curves import CurveCache
from ablab.results.record import Direction

TRAINING_LOSS = "train_loss"  # a curve that every run logs
_SCALED_OVER: tuple[Axis, ...] = ("seq_len", "parameters")
_SCALED = ("seconds_per_step", "flops_per_step", "peak_memory_bytes")  # beside the compared metrics


@dataclass(frozen=True)
class ReportContext:
    """Everything that a view may show."""

    runs: Runs
    comparisons: Comparisons
    unfiltered: ReportContext | None = None  # over which families of claims go; None where nothing was filtered

    @classmethod
    def of(cls, runs: Runs, **settings: Unpack[ComparisonSettings]) -> ReportContext:
        """Compare the runs. Raises UserError as `ablab.analysis.comparison.compare` does."""
        return cls(runs, compare(runs, **settings))

    @classmethod
    def read(
        cls, folders: Sequence[Path], filters: Sequence[str] = (), **settings: Unpack[ComparisonSettings]
    ) -> ReportContext:
        """Read the runs below `folders`, or in files of kept results, and compare them.

        Args:
            filters: as `ablab.analysis.selection.compare_selected` takes them, "attention=lsh,full".

        Raises:
            UserError: as `collect` and `compare_selected` do.
        """
        (shown, runs), (every, left) = compare_and_select(collect(folders), filters, **settings)
        return cls(runs, shown, None if runs is left else cls(left, every))

    @cached_property
    def curves(self) -> CurveCache:
        """Learning curves of what the figures show, so that each file is read once."""
        of_axes = (axis.curve for axis in AXES.values() if axis.curve)
        return CurveCache({*self.comparisons.metrics.values(), TRAINING_LOSS, *of_axes} - {""})

    @property
    def tasks(self) -> list[str]:
        return list(self.comparisons.metrics)

    @property
    def suite(self) -> str:
        """The name of the suite of all tasks, "" if they make none."""
        return self.comparisons.suite[0].task if self.comparisons.suite else ""

    def compared(self, name: str) -> list[Comparison]:
        """The comparisons on a task, or on the suite."""
        return list(self.comparisons.suite) if name == self.suite else self.comparisons.of_task(name)

    @cached_property
    def variants(self) -> list[str]:
        return variants(self.runs)

    @cached_property
    def styles(self) -> dict[str, Style]:
        found = styles(self.variants, self.comparisons.baseline)
        return {variant: replace(style, name=self.names[variant]) for variant, style in found.items()}

    @cached_property
    def names(self) -> dict[str, str]:
        """Variant -> its name without what the baseline has, too; the whole one where two would be called alike."""
        every, baseline = [*self.variants, self.comparisons.baseline], self.comparisons.baseline
        short = {variant: short_name(self.runs, variant, baseline) for variant in self.variants} | {baseline: baseline}
        often = Counter(short.values())
        return {variant: short[variant] if often[short[variant]] == 1 else variant for variant in every}

    @cached_property
    def _drawn(self) -> dict[str, Runs]:
        return {task: self._with_largest_effects(task) for task in self.tasks}

    def drawn(self, task: str) -> Runs:
        """The runs on `task` of the variants that its figures tell apart: all, or those with the largest effects."""
        return self._drawn[task]

    def _with_largest_effects(self, task: str) -> Runs:
        items = sorted(self.compared(task), key=lambda item: -abs(item.effect or 0.0))
        shown = {self.comparisons.baseline, *(item.variant for item in items[: MOST_VARIANTS - 1])}
        places = [
            place
            for (of, variant), found in self.runs.places.items()
            if of == task and variant in shown
            for place in found
        ]
        return self.runs.at(sorted(places))

    def left_out(self, task: str) -> str:
        """A sentence on the variants that figures leave out, "" if they have them all."""
        count = sum(of == task for of, _ in self.runs.places)
        left = len(self.drawn(task).variants)
        if left == count:
            return ""
        return f"Figures show {left} of {count:,} variants: the baseline and those with the largest effects."

    @cached_property
    def comparable(self) -> Runs:
        """The runs without those of variants that cannot be compared with their baseline on a task."""
        apart = self.comparisons.apart
        if not apart:
            return self.runs
        kept = [place for cell, places in self.runs.places.items() if cell not in apart for place in places]
        return self.runs.at(sorted(kept))

    @cached_property
    def variant_rows(self) -> pd.DataFrame:
        return variant_rows(self.comparisons, self.runs)

    @cached_property
    def suite_rows(self) -> pd.DataFrame:
        return suite_rows(self.comparisons, self.runs)

    @cached_property
    def run_rows(self) -> pd.DataFrame:
        return run_rows(self.comparisons, self.runs)

    @cached_property
    def _rows(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in [*self.suite_rows.to_dict("records"), *self.variant_rows.to_dict("records")]:
            found.setdefault(row["task"], []).append({str(name): value for name, value in row.items()})
        return found

    def rows(self, name: str) -> list[Row]:
        """Those of `variant_rows` that are about a task, or those of the suite."""
        return self._rows[name]

    @cached_property
    def _interactions(self) -> dict[str, Interactions]:
        made = self.comparisons
        if made.baselines.steps:  # they are told from one baseline
            return {
                task: Interactions(
                    task=task, metric=metric, baseline=made.baseline, level=made.level, factors=(), items=()
                )
                for task, metric in made.metrics.items()
            }
        found = all_interactions(self.comparable, made.metrics, made.baseline, made.last_k)
        if self.unfiltered is None:
            return found
        return {task: self.unfiltered.interactions(task).shown_with(each) for task, each in found.items()}

    def interactions(self, task: str) -> Interactions:
        """Those of the compared metric of `task`."""
        return self._interactions[task]

    @cached_property
    def ranking(self) -> Ranking:
        """Which variants are resolved better than which others, on each task, whether they are shown or not."""
        if self.unfiltered is not None:
            return self.unfiltered.ranking
        return rank(self.runs, self.comparisons, {task: self.direction(task) for task in self.tasks})

    @cached_property
    def _fronts(self) -> dict[str, pd.DataFrame]:
        found = {}
        for task in self.tasks:
            if self.unfiltered is not None:
                every = self.unfiltered.fronts(task)
                shown = {row["variant"] for row in self.rows(task)}
                found[task] = every[every["variant"].isin(shown)].reset_index(drop=True)
                continue
            rows = pd.DataFrame(self.rows(task))
            apart = [variant for of, variant in self.comparisons.apart if of == task]
            rows.loc[(rows["verdict"] == Verdict.UNSTABLE) | rows["variant"].isin(apart), "mean"] = math.nan
            found[task] = fronts(rows, self.ranking.better[task])
        return found

    def fronts(self, task: str) -> pd.DataFrame:
        """A row per variant, and whether it is on the Pareto front of each cost: "on", "perhaps", "off" or ""."""
        return self._fronts[task]

    @cached_property
    def _earned(self) -> dict[str, dict[str, list[Earned]]]:
        made = self.comparisons
        return {t: earned_by_step(self.drawn(t), t, made.metrics[t], made.baselines, self.curves) for t in self.tasks}

    def earned(self, task: str) -> dict[str, list[Earned]]:
        """Variant -> what its pairs have earned by step, of the variants that figures show. Reads learning curves."""
        return self._earned[task]

    @cached_property
    def _elsewhere(self) -> dict[str, list[Elsewhere]]:
        return {task: elsewhere(self.runs, task) for task in self.tasks}

    def elsewhere(self, task: str) -> list[Elsewhere]:
        """What the runs on `task` were found to be worth on other lengths and data."""
        return self._elsewhere[task]

    @cached_property
    def over_scale(self) -> tuple[LadderFindings, ...]:
        """What each ladder among the runs says of ten times its compute, corrected for all variants."""
        if self.unfiltered is not None:
            shown = {item.variant for item in self.comparisons.items}
            return tuple(each.shown(shown) for each in self.unfiltered.over_scale)
        return over_scale(self.runs, self.comparisons)

    @cached_property
    def scaling(self) -> dict[Axis, list[list[Exponent]]]:
        """Axis that the runs were varied over -> the exponents of each metric; nothing that they do not differ in."""
        metrics = [metric for metric in dict.fromkeys(self.comparisons.metrics.values()) if metric]
        found: dict[Axis, list[list[Exponent]]] = {}
        for over in _SCALED_OVER:
            if not varied(self.runs, over):
                continue
            exponents = [scaling(self.runs, metric, over) for metric in (*_SCALED, *metrics)]
            if any(one.alpha is not None for of_metric in exponents for one in of_metric):
                found[over] = exponents
        return found

    def direction(self, task: str) -> Direction:
        """In which the compared metric of `task` is better."""
        if compared := self.compared(task):
            return compared[0].direction
        return self.runs.primary[task].direction if task in self.runs.primary else "min"

    def target(self, task: str) -> float | None:
        """The value of its primary metric that a task declares as its target, where that is what is compared."""
        settings = [
            self.runs.records[place].config.get("task")
            for (of, _), places in self.runs.places.items()
            if of == task
            for place in places
        ]
        declared = {each.get("target") if isinstance(each, dict) else None for each in settings}
        primary = self.runs.primary.get(task)
        value = declared.pop() if len(declared) == 1 else None
        is_compared = primary is not None and primary.name == self.comparisons.metrics[task]
        return float(value) if is_compared and isinstance(value, int | float) else None
