"""The lines of `ablab plan` on what the seeds could show, among all the comparisons that the study will make."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from ablab.analysis.comparison import Comparisons, compare
from ablab.analysis.estimates import FEWEST_SEEDS, Estimate
from ablab.analysis.family import planned_level
from ablab.analysis.power import POWER, detectable
from ablab.config.placebo import KEY as PLACEBO
from ablab.errors import UserError
from ablab.report.formatting import metric_text
from ablab.results.collect import collect
from ablab.study.preview import Preview, Row


def is_placebo(row: Row) -> bool:
    """Whether its runs are no candidates, and stand in no comparison that counts."""
    return f"{PLACEBO}=" in row.first.variant


def power_lines(preview: Preview) -> list[str]:
    """The smallest effect that the seeds could show; in the metric's unit where earlier runs tell the spread."""
    if preview.seeds:
        return []
    tasks = list(dict.fromkeys(row.first.task for row in preview.rows))
    compared, family = _compared(preview), Family.of(preview)
    said: dict[str, list[str]] = {}
    for task in tasks:
        rows = [row for row in preview.rows if row.first.task == task and not is_placebo(row)]
        said.setdefault(_shown_by(rows, compared, family), []).append(task)
    lines = [f"{', '.join(whom)}: {line}" if len(said) > 1 else line for line, whom in said.items()]
    seeds = min(len(row.seeds) for row in preview.rows)
    if family.on_suite and seeds >= FEWEST_SEEDS:
        shown = family.detectable(1.0, seeds, None)
        lines.append(f"on the suite of {len(family.on_tasks)} tasks: {shown:.2f} standard deviations of its average")
    return lines


@dataclass(frozen=True)
class Family:
    """How many comparisons the study will make, which share one level."""

    on_tasks: dict[str, int]
    on_suite: int

    @classmethod
    def of(cls, preview: Preview) -> Family:
        if preview.planned is None:
            rows = Counter(row.first.task for row in preview.rows if not is_placebo(row))
            return cls({task: count - 1 for task, count in rows.items()}, 0)
        planned = preview.planned
        on_tasks = {task: count - 1 for task, count in Counter(task for task, _ in planned.places).items()}
        named = any(record.comparison.get("metric") for record in planned.records)
        alike = named or len({(metric.name, metric.direction) for metric in planned.primary.values()}) == 1
        return cls(on_tasks, len(planned.variants) - 1 if alike and len(on_tasks) > 1 else 0)

    @property
    def size(self) -> int:
        return sum(self.on_tasks.values()) + self.on_suite

    def detectable(self, sd: float, seeds: int, task: str | None) -> float:
        """The smallest effect that so many seeds show on a task, or on the suite, if it is the only one."""
        counts = {name: count for name, count in self.on_tasks.items() if count}
        # A condition is a task of its own, of which the plan's rows know nothing: the first stands for them.
        place = None if task is None else [*counts].index(task) if task in counts else 0
        degrees, level = planned_level(seeds, [*counts.values()], self.on_suite, place)
        error = sd / math.sqrt(seeds)
        return detectable(Estimate(effect=0.0, standard_error=error, degrees=degrees, pairs=seeds), level)


def _shown_by(rows: list[Row], compared: Comparisons | None, family: Family) -> str:
    seeds = max(len(row.seeds) for row in rows)
    if len(rows) == 1:
        return "one variant: there is nothing to compare"
    if seeds < FEWEST_SEEDS:
        return f"{seeds} seeds allow no verdict: take {FEWEST_SEEDS} at least, 5 as a rule"
    task = rows[0].first.task
    size = f", as the only one among {family.size} comparisons" if family.size > 1 else ""
    return (
        f"{seeds} seeds show an effect of {family.detectable(1.0, seeds, task):.2f} standard deviations of the paired "
        f"differences {POWER:.0%} of the time{size}, a smaller one more seldom"
        f"{_in_units(compared, task, seeds, family)}"
    )


def _compared(preview: Preview) -> Comparisons | None:
    """Compare the runs that there are already; None without any."""
    try:
        return compare(collect([preview.folder])) if preview.done else None
    except UserError:
        return None


def _in_units(compared: Comparisons | None, task: str, seeds: int, family: Family) -> str:
    if compared is None:
        return ""
    spreads = [item.estimate.sd for item in compared.of_task(task) if item.estimate and item.estimate.sd > 0]
    if not spreads:
        return ""
    least, most = (metric_text(family.detectable(sd, seeds, task)) for sd in (min(spreads), max(spreads)))
    metric = compared.metrics.get(task, "")
    return f"; by the runs there are, {least if least == most else f'{least} to {most}'} of {metric}"
