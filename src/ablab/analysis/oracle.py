"""What is known of a task before anybody trains on it, said beside what was measured."""

from __future__ import annotations

from statistics import fmean

from ablab.results.collect import Runs


def known_values(runs: Runs, task: str, metric: str) -> str | None:
    """Chance, ceiling and what else the task's oracle gives for `metric`, as means over the runs; None without one."""
    rows = runs.table.index[runs.table["task"] == task]
    records = [runs.records[int(row)] for row in rows]
    known = [record.oracle for record in records if record.primary and record.primary.name == metric]
    names = dict.fromkeys(name for each in known for name in each)
    values = {name: fmean(each[name] for each in known if name in each) for name in names}
    if not values:
        return None
    return f"{metric} by theory: {', '.join(f'{name} {value:.4g}' for name, value in values.items())}."
