"""How soon is a quality reached? The first step, token or second at which a run's curve crosses a target.

Between two evaluations the curve is taken to be straight. A run that never reaches the target has no time: it is
counted, and nothing is imputed. A run that was past the target at its first evaluation reached it at some time before,
that is not known. Times are compared as ratios, seed by seed and in logarithms, and only where every pair of runs
reached the target: the ratio over those that did would be that of the lucky.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ablab.analysis.curves import By, Reader, Series, series_of
from ablab.analysis.estimates import FEWEST_SEEDS, Estimate, Interval, paired
from ablab.analysis.looks import looks_of
from ablab.analysis.metrics import choose_metric
from ablab.analysis.pairing import label, outcomes, variants
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.curves import CurveCache
from ablab.results.record import Direction


@dataclass(frozen=True, kw_only=True)
class Reached:
    """When the runs of one variant reached the target."""

    variant: str
    label: str
    times: dict[int, float | None]  # seed -> steps, tokens or seconds; None: never, or before its first evaluation
    early: tuple[int, ...]  # seeds that were past the target at their first evaluation
    level: float  # of the interval
    ratio: Estimate | None = None  # of log(time / the baseline's time), paired by seed; None unless every pair has both

    @property
    def reached(self) -> int:
        """Runs that reached the target, however early."""
        return sum(time is not None for time in self.times.values()) + len(self.early)

    @property
    def factor(self) -> float | None:
        """The variant's time as a multiple of the baseline's, the geometric mean over seeds."""
        return math.exp(self.ratio.effect) if self.ratio else None

    @property
    def interval(self) -> Interval | None:
        """The interval of `factor`; not adjusted for the number of variants."""
        if self.ratio is None:
            return None
        low, high = self.ratio.interval(1 - self.level)
        return math.exp(low), math.exp(min(high, 700.0))  # beyond, the exponential has no number


@dataclass(frozen=True, kw_only=True)
class TimeToTarget:
    """All variants of a task, and one target."""

    metric: str
    direction: Direction
    target: float
    declared: bool  # False: the worst final value of the baseline's runs, which all of them reach
    by: By
    baseline: str
    items: tuple[Reached, ...]  # in the order of the plan, the baseline among them


def time_to_target(
    runs: Runs,
    task: str,
    metric: str,
    baseline: str,
    by: By = "step",
    target: float | None = None,
    reader: Reader | None = None,
) -> TimeToTarget:
    """When the runs of each variant reach `target`.

    Args:
        target: in the metric's unit. Default: the worst of the final values of the baseline's finished runs, so that
            each of these reaches it (of their mean, half of them would fall short).
        reader: of curves, see `ablab.results.curves.CurveCache`.

    Raises:
        UserError: no run has the metric, or no target is given and no finished run of the baseline has a curve.
    """
    _, direction, _ = choose_metric(runs, task, metric)
    reader = reader or CurveCache([metric])
    curves = {variant: _curves(runs, task, variant, metric, by, reader) for variant in variants(runs)}
    aim = _final(runs, task, metric, baseline, curves.get(baseline, {}), direction) if target is None else target
    level = looks_of(runs).level()
    crossed = {
        variant: {seed: crossing(series, aim, direction) for seed, series in own.items()}
        for variant, own in curves.items()
        if own
    }
    items = []
    for variant, found in crossed.items():
        times = {seed: time if time is not None and math.isfinite(time) else None for seed, time in found.items()}
        items.append(
            Reached(
                variant=variant,
                label=label(runs, variant, baseline),
                times=times,
                early=tuple(seed for seed, time in found.items() if time == -math.inf),
                level=level,
                ratio=None if variant == baseline else _ratio(times, crossed.get(baseline, {})),
            )
        )
    return TimeToTarget(
        metric=metric,
        direction=direction,
        target=aim,
        declared=target is not None,
        by=by,
        baseline=baseline,
        items=tuple(items),
    )


def crossing(series: Series, target: float, direction: Direction) -> float | None:
    """Where a curve first is at the target or past it; None if nowhere, minus infinity if at its first point."""
    x, y = series
    past = y <= target if direction == "min" else y >= target
    if not past.any():
        return None
    place = int(np.argmax(past))
    if place == 0:
        return -math.inf
    before, after = float(y[place - 1]), float(y[place])
    share = (target - before) / (after - before)
    return float(x[place - 1] + share * (x[place] - x[place - 1]))


def _curves(runs: Runs, task: str, variant: str, metric: str, by: By, reader: Reader) -> dict[int, Series]:
    """Curves of the runs that finished or diverged: what was reached before a divergence was reached."""
    found = {
        seed: series_of(outcome.record, outcome.path, metric, by, reader)
        for seed, outcome in outcomes(runs, task, variant, metric).items()
        if outcome.record.status in ("ok", "diverged")
    }
    return {seed: series for seed, series in found.items() if series is not None}


def _final(
    runs: Runs, task: str, metric: str, baseline: str, curves: Mapping[int, Series], direction: Direction
) -> float:
    ended = outcomes(runs, task, baseline, metric)
    values = [float(y[-1]) for seed, (_, y) in curves.items() if ended[seed].record.status == "ok"]
    if not values:
        raise UserError(f"{task}: no finished run of {baseline} has a curve of {metric}; give a target")
    return max(values) if direction == "min" else min(values)


def _ratio(own: Mapping[int, float | None], base: Mapping[int, float | None]) -> Estimate | None:
    """Over the seeds that both were run with; None if too few, or if one of these runs has no time."""
    pairs = [(own[seed], base[seed]) for seed in own if seed in base]
    logs = [math.log(a / b) for a, b in pairs if a is not None and b is not None and a > 0 and b > 0]
    return paired(logs) if len(logs) == len(pairs) >= FEWEST_SEEDS else None
