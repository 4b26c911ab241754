"""How a cost or a quality grows with the length of the sequences or the size of the model: y ~ x^alpha.

The exponent is the slope of a straight line through the logarithms, by least squares: the mean growth over the range
that was run. Costs are sums of terms (attention grows with the square of the length, the rest with the length itself),
so that it changes with the range and says little outside it.

There is one series for each choice of everything else: each variant where lengths differ, each choice of the factors
outside `model` where sizes do. Each seed that ran all values of x has an exponent of its own, and from `FEWEST_SEEDS`
such seeds on the interval is the t interval over seeds. With fewer seeds and at least three values of x it is that of
the regression through the means, which takes the departures from a straight line for noise. What is counted and not
measured has no noise, and needs no interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL, Interval, paired
from ablab.analysis.looks import looks_of
from ablab.analysis.pairing import value_of
from ablab.results.collect import Runs
from ablab.results.record import Record

Axis = Literal["seq_len", "parameters"]
Basis = Literal["seeds", "fit", "counted"]
Points = dict[int, dict[float, list[float]]]  # seed -> x -> values of y

FEWEST_POINTS = 3  # values of x for an interval of the fit
# Metrics that are no field of a record; any other is a metric, a mechanism metric or a cost by its name.
_DERIVED: dict[str, Callable[[Record], float]] = {
    "seconds_per_step": lambda record: _ratio(record.cost.train_time_s, record.cost.steps),
    "seconds_per_token": lambda record: _ratio(record.cost.train_time_s, record.cost.tokens),
}
_COUNTED = ("flops_per_step", "flops_total", "parameters", "tokens")


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """The growth of one metric in one series."""

    series: str  # "source_text: attention=lsh"
    x_name: Axis
    y_name: str
    x: tuple[float, ...]  # that were run, ascending
    y: tuple[float, ...]  # the mean over runs at each x
    seeds: int  # that have every x
    alpha: float | None  # None for fewer than two values of x
    log_scale: float | None  # y = exp(log_scale) * x^alpha; of a steep fit the factor itself is no float
    level: float = LEVEL  # of the interval: smaller where the study was analysed more than once
    interval: Interval | None = None
    basis: Basis | None = None  # of the interval
    left_out: int = 0  # finished runs whose value has no logarithm: 0, negative or missing


def scaling(runs: Runs, metric: str, over: Axis) -> list[Exponent]:
    """The exponent of `metric` in every series of finished runs, in the order of the plan.

    Args:
        metric: a metric or a cost by name, `seconds_per_step` or `seconds_per_token` (training alone).
        over: the setting `task.seq_len`, or the parameters of the model.
    """
    counted = metric in _COUNTED
    found, left_out = _series(runs, metric, over)
    level = looks_of(runs).level()
    return [
        _exponent(series, points, metric, over, counted, left_out[series], level) for series, points in found.items()
    ]


def varied(runs: Runs, over: Axis) -> bool:
    """Whether finished runs differ in it: without that there is no exponent."""
    return len({x for record in runs.records if record.status == "ok" and (x := _x(record, over)) > 0}) > 1


def _series(runs: Runs, metric: str, over: Axis) -> tuple[dict[str, Points], Counter[str]]:
    """The points of each series, and how many runs of each have none."""
    found: dict[str, Points] = {}
    left_out: Counter[str] = Counter()
    tasks = [_without_length(str(task)) if over == "seq_len" else str(task) for task in runs.table["task"]]
    several = len(set(tasks)) > 1
    chosen = {variant: _chosen(own, over) for variant, own in runs.choices.items()}
    for task, record, variant in zip(tasks, runs.records, runs.table["variant"].tolist(), strict=True):
        if record.status != "ok":
            continue
        parts = (task if several else "", chosen[variant])
        series = ": ".join(part for part in parts if part) or task
        points = found.setdefault(series, {})
        x, y = _x(record, over), _y(record, metric)
        if x > 0 and y > 0 and math.isfinite(y):
            points.setdefault(record.seed, {}).setdefault(x, []).append(y)
        else:
            left_out[series] += 1
    return found, left_out


def _chosen(own: Mapping[str, str], over: Axis) -> str:
    """The settings of a variant for everything that is not `over` itself, as overrides."""
    kept = {name: value for name, value in own.items() if value and not (over == "parameters" and _sizes(name))}
    return ",".join(f"{name}={value}" for name, value in kept.items())


def _exponent(
    series: str, points: Points, metric: str, over: Axis, counted: bool, left_out: int, level: float
) -> Exponent:
    xs = sorted({x for at in points.values() for x in at})
    ys = [float(np.mean([y for at in points.values() for y in at.get(x, ())])) for x in xs]
    complete = [at for at in points.values() if len(at) == len(xs)]
    alpha: float | None = None
    log_scale: float | None = None
    interval: Interval | None = None
    basis: Basis | None = None
    if len(xs) > 1:
        alpha, log_scale = _fit(xs, ys)
        slopes = [_fit(xs, [float(np.mean(at[x])) for x in xs])[0] for at in complete]
        if counted:
            interval, basis = (alpha, alpha), "counted"
        elif len(slopes) >= FEWEST_SEEDS:
            estimate = paired(slopes)
            alpha, interval, basis = estimate.effect, estimate.interval(1 - level), "seeds"
            log_scale = float(np.mean(np.log(ys)) - alpha * np.mean(np.log(xs)))
        elif len(xs) >= FEWEST_POINTS:
            line = stats.linregress(np.log(xs), np.log(ys))
            half = float(stats.t.ppf(1 - level / 2, len(xs) - 2)) * float(line.stderr)
            interval, basis = (alpha - half, alpha + half), "fit"
    return Exponent(
        series=series,
        x_name=over,
        y_name=metric,
        x=tuple(xs),
        y=tuple(ys),
        seeds=len(complete),
        alpha=alpha,
        log_scale=log_scale,
        level=level,
        interval=interval,
        basis=basis,
        left_out=left_out,
    )


def _fit(xs: list[float], ys: list[float]) -> tuple[float, float]:
    """(exponent, logarithm of the scale) by least squares in logarithms."""
    x, y = np.log(xs), np.log(ys)
    alpha = float((x - x.mean()) @ (y - y.mean()) / ((x - x.mean()) @ (x - x.mean())))
    return alpha, float(y.mean() - alpha * x.mean())


def _x(record: Record, over: Axis) -> float:
    task = record.config.get("task")
    value = record.cost.parameters if over == "parameters" else task.get("seq_len") if isinstance(task, dict) else None
    return float(value) if isinstance(value, int | float) else math.nan


def _y(record: Record, metric: str) -> float:
    return _DERIVED[metric](record) if metric in _DERIVED else value_of(record, metric)


def _ratio(part: float | None, whole: float) -> float:
    return part / whole if part and whole else math.nan


def _without_length(task: str) -> str:
    """The label of a task without the length: "source_text,task.seq_len=256" is "source_text"."""
    return ",".join(part for part in task.split(",") if not part.startswith("task.seq_len="))


def _sizes(factor: str) -> bool:
    return factor.split(".")[0] == "model"
