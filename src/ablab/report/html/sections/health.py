"""Which seed of which variant ended how, and why those that did not end well did not."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ablab.report.context import ReportContext
from ablab.report.rows import unhealthy

NOT_RUN = "not run"


@dataclass(frozen=True)
class Health:
    """The grid of variants and seeds, the reasons, and where those stood that failed."""

    seeds: list[int]
    rows: list[tuple[str, str, list[str]]]  # (task, variant, status per seed)
    reasons: pd.DataFrame
    tracebacks: list[tuple[str, str]]  # (of which run, text): each text once


def health(context: ReportContext) -> Health:
    """A seed that was run more than once shows every end, in order."""
    table = context.runs.table
    seeds = sorted({record.seed for record in context.runs.records})
    ends = table.groupby(["task", "variant", "seed"], sort=False)["status"].agg(", ".join).to_dict()
    known = dict.fromkeys(zip(table["task"], table["variant"], strict=True))
    rows = [
        (str(task), str(variant), [ends.get((task, variant, seed), NOT_RUN) for seed in seeds])
        for task, variant in known
    ]
    unwell = unhealthy(context.run_rows)
    return Health(seeds, rows, unwell if len(context.tasks) > 1 else unwell.drop(columns="task"), _tracebacks(context))


def _tracebacks(context: ReportContext) -> list[tuple[str, str]]:
    runs: dict[str, list[str]] = {}
    for variant, record in zip(context.runs.table["variant"], context.runs.records, strict=True):
        if record.traceback:
            runs.setdefault(record.traceback, []).append(f"{variant}, seed {record.seed}")
    return [(f"{first}{f' and {len(more)} more' if more else ''}", text) for text, (first, *more) in runs.items()]
