"""The tables as numbers, for machines: one row per variant and task with quality and cost, and one row per run.

`ablab.report.tables` shows them to people.
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from ablab.analysis.comparison import Comparison, Comparisons
from ablab.analysis.pairing import counting, outcomes, tasks, value_of, variants
from ablab.analysis.suite import averages
from ablab.results.collect import Runs
from ablab.results.record import Record

Row = dict[str, Any]  # of a table, by column
IN_USE = (
    *("cache_bytes_1k", "cache_bytes_8k", "cache_bytes_64k"),
    *("decode_flops_1k", "decode_flops_8k", "decode_flops_64k", "prefill_flops"),
)
COSTS = (
    *("parameters", "active_parameters", "flops_total", "tokens"),
    *("tokens_per_second", "wall_time_s", "peak_memory_bytes"),
    *IN_USE,
)


def records_of(runs: Runs, task: str, variant: str) -> list[Record]:
    """All runs of one variant on one task, however they ended."""
    return [runs.records[place] for place in runs.places.get((task, variant), ())]


def mean_sd(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation of the finite values; NaN where there are too few."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan, math.nan
    return fmean(finite), stdev(finite) if len(finite) > 1 else math.nan


def variant_rows(comparisons: Comparisons, runs: Runs) -> pd.DataFrame:
    """One row per task and variant, the baseline among them: metric, effect, interval, p, costs, how the runs ended."""
    found = {(item.task, item.variant): item for item in comparisons.items}
    rows = []
    for task in tasks(runs):
        for variant in variants(runs):
            records = records_of(runs, task, variant)
            if not records:
                continue
            metric = comparisons.metrics[task]
            of_seeds = outcomes(runs, task, variant, metric, comparisons.last_k).values()  # one run of each
            values = [outcome.value for outcome in of_seeds]
            item, ok = found.get((task, variant)), counting(runs, task, variant)
            rows.append(_row(task, variant, metric, values, item, records, ok))
    return pd.DataFrame(rows)


def suite_rows(comparisons: Comparisons, runs: Runs) -> pd.DataFrame:
    """One row per variant on the suite of all tasks; empty without one.

    The mean is over seeds, of their average over the tasks.
    Seeds that lack a value on some task have no average; costs are means over the runs on all tasks.
    """
    found = {item.variant: item for item in comparisons.suite}
    rows = []
    for variant in variants(runs) if found else []:
        sides = [
            outcomes(runs, task, variant, metric, comparisons.last_k) for task, metric in comparisons.metrics.items()
        ]
        records = [record for task in tasks(runs) for record in records_of(runs, task, variant)]
        first = comparisons.suite[0]
        values = list(averages(sides).values())
        ok = [record for task in tasks(runs) for record in counting(runs, task, variant)]
        rows.append(_row(first.task, variant, first.metric, values, found.get(variant), records, ok))
    return pd.DataFrame(rows)


def _row(
    task: str,
    variant: str,
    metric: str,
    values: list[float],
    item: Comparison | None,
    records: list[Record],
    ok: list[Record],
) -> Row:
    mean, sd = mean_sd(values)
    return {
        "task": task,
        "variant": variant,
        "verdict": item.verdict.value if item else "baseline",
        "baseline": item.baseline if item else "",
        "metric": metric,
        "mean": mean,
        "sd": sd,
        **_effect(item),
        **_mean_costs(ok),
        "status": status_counts(records),
    }


def _mean_costs(records: list[Record]) -> dict[str, float]:
    """NaN where none of the runs measured it."""
    known = {cost: [value for record in records if (value := getattr(record.cost, cost)) is not None] for cost in COSTS}
    return {cost: fmean(values) if values else math.nan for cost, values in known.items()}


def _effect(item: Comparison | None) -> Row:
    low, high = item.shown_interval if item and item.shown_interval else (None, None)
    together = item.simultaneous if item and item.simultaneous else (None, None)
    return {
        "effect": item.effect if item else None,
        "low": low,
        "high": high,
        "simultaneous_low": together[0],
        "simultaneous_high": together[1],
        "confidence": 1 - item.level if item and item.interval else None,
        "p_adjusted": item.p_adjusted if item else None,
        "correlation": item.correlation if item else None,
        "seeds": len(item.seeds) if item else None,
        "preliminary": item.preliminary and item.interval is not None if item else None,
    }


def status_counts(records: list[Record]) -> str:
    """ "3/3 ok", or what the others did: "1/3 ok, 2 diverged"."""
    counts = Counter(record.status for record in records)
    others = [f"{counts[status]} {status}" for status in ("diverged", "failed", "interrupted") if counts[status]]
    return ", ".join([f"{counts['ok']}/{len(records)} ok", *others])


def run_rows(comparisons: Comparisons, runs: Runs) -> pd.DataFrame:
    """One row per run, placebos among them: what it was, how it ended and why, its metric and cost."""
    rows = []
    runs = runs.every
    for task, variant, path, record in zip(
        runs.table["task"].tolist(), runs.table["variant"].tolist(), runs.paths, runs.records, strict=True
    ):
        metric = comparisons.metrics.get(task, "")  # none on a task that placebos alone were run on
        rows.append(
            {
                "task": task,
                "variant": variant,
                "seed": record.seed,
                "status": record.status,
                "reason": record.reason or "",
                "metric": metric,
                "value": value_of(record, metric, comparisons.last_k),
                **{cost: getattr(record.cost, cost) for cost in COSTS},
                "path": path,
            }
        )
    return pd.DataFrame(rows)


def unhealthy(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs of `run_rows` that did not end well, with their reasons."""
    return rows.loc[rows["status"] != "ok", ["task", "variant", "seed", "status", "reason"]]
