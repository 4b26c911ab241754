"""How soon is a quality reached? The first step, token or second at which a run's curve crosses a target.

Between two evaluations the curve is taken to be straight. A run that never reaches the target has no time: it is
counted, and nothing is imputed. A run that was past the target at its first evaluation reached it at some time before,
that is not known. Times are compared as ratios, seed by seed and in logarithms, and only where every pair of runs
reached the target: the ratio over those that did would be that of the lucky.

Without a declared target each variant has one of its own: the best value that every finished run of the variant and of
the baseline reached by its end. It treats the two alike, so that a variant that does nothing is ahead as often as
behind. The worst final value of the baseline's runs alone does not: a variant's runs get there only by luck, and those
that did, of five variants that do nothing, read as faster by 2%.

The intervals hold all at once: over the variants, the tasks and the units in which time is told (`UNITS`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from ablab.analysis.baseline import Baselines
from ablab.analysis.curves import By, Reader, Series, series_of
from ablab.analysis.estimates import FEWEST_SEEDS, FULL_SEEDS, LEVEL, Estimate, Interval, paired
from ablab.analysis.looks import looks_of
from ablab.analysis.metrics import choose_metric
from ablab.analysis.pairing import label, outcomes, tasks, variants
from ablab.analysis.shared_error import shared_critical
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.curves import CurveCache
from ablab.results.record import Direction

_MOST = 700.0  # logarithm, beyond which the exponential has no number
UNITS: tuple[By, ...] = ("step", "seconds")  # that a report tells times in, each with its intervals


@dataclass(frozen=True, kw_only=True)
class Reached:
    """When the runs of one variant reached its target."""

    variant: str
    label: str
    target: float
    times: dict[int, float | None]  # seed -> steps, tokens or seconds; None: never, or before its first evaluation
    early: tuple[int, ...]  # seeds that were past the target at their first evaluation
    ratio: Estimate | None = None  # of log(time / the baseline's time), paired by seed; None unless every pair has both
    interval: Interval | None = None  # of `factor`, simultaneous with all others of the study

    @property
    def reached(self) -> int:
        """Runs that reached the target, however early."""
        return sum(time is not None for time in self.times.values()) + len(self.early)

    @property
    def factor(self) -> float | None:
        """The variant's time as a multiple of the baseline's, the geometric mean over seeds."""
        return math.exp(self.ratio.effect) if self.ratio else None


@dataclass(frozen=True, kw_only=True)
class TimeToTarget:
    """All variants of a task, and the target of each."""

    metric: str
    direction: Direction
    declared: bool  # False: the best value that all finished runs of a variant and of the baseline reached
    by: By
    level: float  # of all intervals of the study together
    items: tuple[Reached, ...]  # in the order of the plan, the baseline among them where the target is declared


@dataclass(frozen=True)
class _Runs:
    """The curves of a variant's runs, by seed."""

    curves: dict[int, Series]
    finished: frozenset[int]  # the others diverged

    def times(self, target: float, direction: Direction) -> dict[int, float | None]:
        return {seed: crossing(series, target, direction) for seed, series in self.curves.items()}

    def finals(self) -> list[float]:
        return [float(self.curves[seed][1][-1]) for seed in self.finished]


def time_to_target(
    runs: Runs,
    task: str,
    metric: str,
    baselines: Baselines,
    by: By = "step",
    target: float | None = None,
    reader: Reader | None = None,
) -> TimeToTarget:
    """When the runs of each variant reach `target`, and those of its baseline.

    Args:
        target: in the metric's unit. Default: for each variant the best value that every finished run of its own and of
            the baseline reached.
        reader: of curves, see `ablab.results.curves.CurveCache`.

    Raises:
        UserError: no run has the metric, or no target is given and no finished run of the baseline has a curve.
    """
    _, direction, _ = choose_metric(runs, task, metric)
    reader = reader or CurveCache([metric])
    found = {variant: _curves(runs, task, variant, metric, by, reader) for variant in variants(runs)}
    found = {variant: own for variant, own in found.items() if own.curves}
    baseline, nothing = baselines.first, _Runs({}, frozenset())
    if target is None and not any(found.get(base, nothing).finished for base in (baseline, *baselines.steps.values())):
        raise UserError(f"{task}: no finished run of {baseline} has a curve of {metric}; give a target")
    items = [
        _reached(variant, label(runs, variant, before), own, found.get(before, nothing), target, direction)
        for variant, own in found.items()
        for before in [baselines.of(variant)]
        if target is not None or (variant != baseline and own.finished and found.get(before, nothing).finished)
    ]
    looks = looks_of(runs)
    return TimeToTarget(
        metric=metric,
        direction=direction,
        declared=target is not None,
        by=by,
        level=looks.level(),
        items=tuple(_with_intervals(items, looks.level(LEVEL / len(UNITS) / len(tasks(runs))))),
    )


def _reached(variant: str, name: str, own: _Runs, base: _Runs, declared: float | None, direction: Direction) -> Reached:
    """Without an interval."""
    worst = max if direction == "min" else min
    target = worst([*own.finals(), *base.finals()]) if declared is None else declared
    found = own.times(target, direction)
    times = {seed: time if time is not None and math.isfinite(time) else None for seed, time in found.items()}
    early = tuple(seed for seed, time in found.items() if time == -math.inf)
    ratio = None if own is base else _ratio(times, base.times(target, direction))
    return Reached(variant=variant, label=name, target=target, times=times, early=early, ratio=ratio)


def _with_intervals(items: list[Reached], level: float) -> list[Reached]:
    """Hold all intervals of one task at once at `level`: with three pairs each by their shared standard error."""
    ratios = [item.ratio for item in items if item.ratio]
    if all(ratio.pairs < FULL_SEEDS for ratio in ratios):
        shared = fmean(ratio.sd**2 for ratio in ratios) if ratios else 0.0
        critical = shared_critical(FEWEST_SEEDS - 1, (len(ratios),), level)
        return [replace(item, interval=_factors(item.ratio, critical, shared)) for item in items]
    return [
        replace(item, interval=_factors(item.ratio, item.ratio.critical(level / len(ratios)))) if item.ratio else item
        for item in items
    ]


def _factors(ratio: Estimate | None, critical: float, shared_variance: float = 0.0) -> Interval | None:
    """The interval of a ratio of times from that of its logarithm."""
    if ratio is None:
        return None
    half = critical * max(ratio.standard_error, math.sqrt(shared_variance / ratio.pairs))
    low, high = ratio.effect - half, ratio.effect + half
    return math.exp(max(low, -_MOST)), math.exp(min(high, _MOST))


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


def _curves(runs: Runs, task: str, variant: str, metric: str, by: By, reader: Reader) -> _Runs:
    """Of the runs that finished or diverged: what was reached before a divergence was reached."""
    found = {
        seed: (outcome, series_of(outcome.record, outcome.path, metric, by, reader))
        for seed, outcome in outcomes(runs, task, variant, metric).items()
        if outcome.record.status in ("ok", "diverged")
    }
    curves = {seed: series for seed, (_, series) in found.items() if series is not None}
    return _Runs(curves, frozenset(seed for seed in curves if found[seed][0].record.status == "ok"))


def _ratio(own: Mapping[int, float | None], base: Mapping[int, float | None]) -> Estimate | None:
    """Over the seeds that both were run with; None if too few, or if one of these runs has no time."""
    pairs = [(own[seed], base[seed]) for seed in own if seed in base]
    logs = [math.log(a / b) for a, b in pairs if a is not None and b is not None and a > 0 and b > 0]
    return paired(logs) if len(logs) == len(pairs) >= FEWEST_SEEDS else None
