"""Learning curves side by side: over steps, tokens or seconds, with bands over seeds, and paired with the baseline's.

A run logs its curves by step. Its tokens and seconds at a step are those of the whole run in proportion: exact for
tokens where every step has as many, and for seconds the mean speed, training alone (evaluations left out).

Bands are t intervals over seeds, point by point: each point's band misses its own mean in one of twenty studies. That
a whole curve lies inside its band, or two bands apart somewhere, is not claimed at that level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import stats

from ablab.analysis.baseline import Baselines
from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL, FloatArray
from ablab.analysis.pairing import outcomes, variants
from ablab.results.collect import Runs
from ablab.results.curves import Curve, CurveCache
from ablab.results.record import Record

By = Literal["step", "tokens", "seconds"]
Reader = Callable[[str, str], Curve | None]  # (folder of the run, metric)
Series = tuple[FloatArray, FloatArray]  # [points] where, and the values


@dataclass(frozen=True, eq=False)
class Band:
    """The mean over seeds of a curve, or of the difference of two, on a common grid."""

    x: FloatArray  # [points]
    mean: FloatArray  # [points]
    low: FloatArray | None  # [points] of the pointwise 95% t interval; None below FEWEST_SEEDS
    high: FloatArray | None
    seeds: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Aligned:
    """The curves of one metric on one task."""

    by: By
    approximate: bool  # the grid rests on the mean speed of each run, or on its mean number of tokens per step
    bands: dict[str, Band] = field(default_factory=dict)  # variant -> over its finished runs; in the plan's order
    diverged: list[tuple[str, int, Series]] = field(default_factory=list)  # (variant, seed, its curve to the end)


def aligned(runs: Runs, task: str, metric: str, by: By = "step", reader: Reader | None = None) -> Aligned:
    """The mean curve of each variant with its band, and the curves of its diverged runs.

    Steps and tokens: at the points that all finished runs of the variant have. Seconds, and tokens where the runs share
    few points: on a grid inside the range that all of them cover, interpolated linearly.

    Args:
        reader: of curves, so that a caller reads each file once; see `CurveCache`.
    """
    reader = reader or CurveCache([metric])
    found = Aligned(by, _approximate(runs, by))
    for variant in variants(runs):
        if finished := _series(runs, task, variant, metric, by, reader, "ok"):
            x, values = _on_common_grid(list(finished.values()), by)
            if len(x):
                found.bands[variant] = _summary(x, values, list(finished))
        diverged = _series(runs, task, variant, metric, by, reader, "diverged")
        found.diverged.extend((variant, seed, series) for seed, series in diverged.items())
    return found


def difference(
    runs: Runs, task: str, metric: str, baselines: Baselines, by: By = "step", reader: Reader | None = None
) -> dict[str, Band]:
    """variant -> the mean over seeds of its curve minus its baseline's, with the band of the paired differences.

    The band is pointwise, not simultaneous: somewhere along a curve it will exclude 0 more often than one time in
    twenty where nothing differs. What is concluded from is the last evaluation alone.
    """
    return {
        variant: _summary(pairs.x, pairs.own - pairs.base, pairs.seeds)
        for variant, pairs in paired_curves(runs, task, metric, baselines, by, reader).items()
    }


@dataclass(frozen=True, eq=False)
class PairedCurves:
    """The curves of a variant and of its baseline, seed by seed, on a grid that all of them have."""

    x: FloatArray  # [points], at least one
    own: FloatArray  # [seeds, points]
    base: FloatArray  # [seeds, points]
    seeds: tuple[int, ...]


def paired_curves(
    runs: Runs, task: str, metric: str, baselines: Baselines, by: By = "step", reader: Reader | None = None
) -> dict[str, PairedCurves]:
    """variant -> its finished runs beside its baseline's; without those that share no seed or no point with it."""
    reader = reader or CurveCache([metric])
    finished = {variant: _series(runs, task, variant, metric, by, reader, "ok") for variant in variants(runs)}
    found = {}
    for variant, own in finished.items():
        base = finished.get(baselines.of(variant), {})
        seeds = [seed for seed in own if seed in base]
        if variant == baselines.first or not seeds:
            continue
        x, values = _on_common_grid([*(own[seed] for seed in seeds), *(base[seed] for seed in seeds)], by)
        if len(x):
            found[variant] = PairedCurves(x, values[: len(seeds)], values[len(seeds) :], tuple(seeds))
    return found


def per_step(record: Record, by: By) -> float | None:
    """Tokens or training seconds of one step of the run, on average; None where they are not known."""
    if by == "step":
        return 1.0
    total = record.cost.tokens if by == "tokens" else record.cost.train_time_s
    return total / record.cost.steps if total and record.cost.steps else None


def series_of(record: Record, path: str, metric: str, by: By, reader: Reader) -> Series | None:
    """The curve of one run over steps, tokens or seconds; None if it has none, or that cannot be known."""
    unit = per_step(record, by)
    curve = reader(path, metric) if unit is not None else None
    return None if curve is None or unit is None else (curve.step.astype(np.float64) * unit, curve.value)


def _series(runs: Runs, task: str, variant: str, metric: str, by: By, reader: Reader, status: str) -> dict[int, Series]:
    """seed -> the curve of each run of the variant that ended so."""
    found = {
        seed: series_of(outcome.record, outcome.path, metric, by, reader)
        for seed, outcome in outcomes(runs, task, variant, metric).items()
        if outcome.record.status == status
    }
    return {seed: series for seed, series in found.items() if series is not None}


def _on_common_grid(series: Sequence[Series], by: By) -> tuple[FloatArray, FloatArray]:
    """[points] and [series, points]: where all of them have a value; else interpolated where all of them reach.

    Steps are never interpolated. Others are where fewer than half of the points of the shortest are shared.
    """
    shared = series[0][0]
    for x, _ in series[1:]:
        shared = np.intersect1d(shared, x, assume_unique=True)
    if by == "step" or 2 * len(shared) >= min(len(x) for x, _ in series):
        return shared, np.array([y[np.isin(x, shared)] for x, y in series])
    low, high = max(x[0] for x, _ in series), min(x[-1] for x, _ in series)
    grid = np.linspace(low, high, max(len(x) for x, _ in series)) if low < high else np.empty(0)
    return grid, np.array([np.interp(grid, x, y) for x, y in series])


def _summary(x: FloatArray, values: FloatArray, seeds: Sequence[int]) -> Band:
    """The band of `values` [seeds, points]."""
    count, mean = len(values), values.mean(0)
    if count < FEWEST_SEEDS:
        return Band(x, mean, None, None, tuple(seeds))
    half = float(stats.t.ppf(1 - LEVEL / 2, count - 1)) * values.std(0, ddof=1) / math.sqrt(count)
    return Band(x, mean, mean - half, mean + half, tuple(seeds))


def _approximate(runs: Runs, by: By) -> bool:
    uneven = any(record.cost.steps and record.cost.tokens % record.cost.steps for record in runs.records)
    return by == "seconds" or (by == "tokens" and uneven)
