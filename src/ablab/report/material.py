"""What tables and figures of a study are made from: its runs, their comparison, and what follows from both."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from ablab.analysis.comparison import Comparison, Comparisons
from ablab.analysis.interactions import Interactions, interactions
from ablab.analysis.pairing import variants
from ablab.analysis.scaling import Axis, Exponent, scaling, varied
from ablab.report.figures.canvas import MOST_VARIANTS
from ablab.report.figures.looks import Look, looks
from ablab.report.tables import Row, variant_rows
from ablab.results.collect import Runs
from ablab.results.curves import CurveCache
from ablab.results.record import Direction

_SCALED_OVER: tuple[Axis, ...] = ("seq_len", "parameters")
_SCALED = ("seconds_per_step", "flops_per_step", "peak_memory_bytes")  # beside the compared metrics


@dataclass(frozen=True)
class Material:
    """Everything that a section may show."""

    runs: Runs
    comparisons: Comparisons
    curves: CurveCache = field(default_factory=CurveCache)  # each file is read once

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
    def looks(self) -> dict[str, Look]:
        return looks(self.variants, self.comparisons.baseline)

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
    def _rows(self) -> list[Row]:
        rows = variant_rows(self.comparisons, self.runs).to_dict("records")
        return [{str(name): value for name, value in row.items()} for row in rows]

    def rows(self, task: str) -> list[Row]:
        """Those of `variant_rows` that are about `task`."""
        return [row for row in self._rows if row["task"] == task]

    @cached_property
    def _interactions(self) -> dict[str, Interactions]:
        made = self.comparisons
        return {t: interactions(self.runs, t, made.metrics[t], made.baseline, made.last_k) for t in self.tasks}

    def interactions(self, task: str) -> Interactions:
        """Those of the compared metric of `task`."""
        return self._interactions[task]

    @cached_property
    def scaling(self) -> dict[Axis, list[list[Exponent]]]:
        """What the runs were varied over -> the exponents of each figure; nothing that they do not differ in."""
        metrics = [metric for metric in dict.fromkeys(self.comparisons.metrics.values()) if metric]
        found: dict[Axis, list[list[Exponent]]] = {}
        for over in _SCALED_OVER:
            if not varied(self.runs, over):
                continue
            exponents = [scaling(self.runs, figure, over) for figure in (*_SCALED, *metrics)]
            if any(one.alpha is not None for of_figure in exponents for one in of_figure):
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
