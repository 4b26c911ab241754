"""What tables and figures of a study are made from: its runs, their comparison, and what follows from both."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from ablab.analysis.comparison import Comparisons
from ablab.analysis.curves import CurveFiles
from ablab.analysis.interactions import Interactions, interactions
from ablab.analysis.metrics import choose_metric
from ablab.analysis.pairing import variants
from ablab.report.figures.looks import Look, looks
from ablab.report.tables import Row, variant_rows
from ablab.results.collect import Runs
from ablab.results.record import Direction


@dataclass(frozen=True)
class Material:
    """Everything that a section may show."""

    runs: Runs
    comparisons: Comparisons
    curves: CurveFiles = field(default_factory=CurveFiles)  # each file is read once

    @property
    def tasks(self) -> list[str]:
        return list(self.comparisons.metrics)

    @cached_property
    def variants(self) -> list[str]:
        return variants(self.runs)

    @cached_property
    def looks(self) -> dict[str, Look]:
        return looks(self.variants, self.comparisons.baseline)

    @cached_property
    def _rows(self) -> list[Row]:
        return [dict(row) for row in variant_rows(self.comparisons, self.runs).to_dict("records")]

    def rows(self, task: str) -> list[Row]:
        """Those of `variant_rows` that are about `task`."""
        return [row for row in self._rows if row["task"] == task]

    @cached_property
    def _interactions(self) -> dict[str, Interactions]:
        metrics = self.comparisons.metrics
        return {t: interactions(self.runs, t, metrics[t], self.comparisons.baseline) for t in self.tasks}

    def interactions(self, task: str) -> Interactions:
        """Those of the compared metric of `task`."""
        return self._interactions[task]

    def direction(self, task: str) -> Direction:
        """In which the compared metric of `task` is better."""
        return choose_metric(self.runs, task, self.comparisons.metrics[task] or None)[1]
