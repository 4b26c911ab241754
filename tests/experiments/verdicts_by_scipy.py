"""Verdicts found once more from differences, by scipy alone, in another way than the package's.

But for the noise of tuning, which is given here, and which `tests/analysis` holds to simulated studies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.05


@lru_cache
def least_p_values(sides: int, looks: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The least p of all looks, in many studies without an effect, the smallest first."""
    drawn = np.random.default_rng(0).standard_normal((1_000_000, max(looks)))
    each = []
    for size in looks:
        t = drawn[:, :size].mean(1) / (drawn[:, :size].std(1, ddof=1) / math.sqrt(size))
        each.append(sides * stats.t.sf(np.abs(t) if sides == 2 else t, size - 1))
    return np.sort(np.min(each, axis=0))


def over_looks(p_at: Sequence[float], sides: int, looks: Sequence[int]) -> float:
    """How often some look of a study without an effect has as small a p: all looks are at one level (Pocock)."""
    simulated = float(np.searchsorted(least_p_values(sides, tuple(looks)), min(p_at))) / 1_000_000
    return simulated if simulated > 1e-4 else min(1.0, len(looks) * min(p_at))  # too rare to be counted


def p_values(
    differences: Sequence[float], choice: float, looks: Sequence[int], margin: float | None
) -> tuple[float, ...]:
    """Of no effect, and of one of the margin or more, over the looks that there were.

    Args:
        choice: the standard error that choosing settings by tuning adds.
        looks: numbers of seeds at which the study was planned to be looked at.
        margin: None: none was declared, and there is the first p alone.
    """
    no_effect, outside = [], []
    sign = math.copysign(1, fmean(differences))
    for size in (size for size in looks if size <= len(differences)):
        seen = differences[:size]
        error = math.hypot(stdev(seen) / math.sqrt(size), choice)
        if fmean(seen) * sign > 0:
            no_effect.append(2 * stats.t.sf(abs(fmean(seen)) / error, size - 1))
        if margin is not None:
            outside.append(stats.t.sf((margin - abs(fmean(seen))) / error, size - 1))
    of_both = [(no_effect, 2), (outside, 1)][: 1 if margin is None else 2]
    return tuple(p_at[0] if len(looks) == 1 else over_looks(p_at, sides, looks) for p_at, sides in of_both)


def corrected(found: Sequence[tuple[float, ...]], weights: Sequence[float]) -> list[tuple[float, ...]]:
    """Holm's p values over all that have a weight, where each counts until all of its hypotheses are rejected.

    Weights behind those of `found` are of what is not known yet, and count to the end.
    """
    tests = sorted(
        (p / weights[place], place, which) for place, pair in enumerate(found) for which, p in enumerate(pair)
    )
    adjusted = [[1.0] * len(ps) for ps in found]
    left, largest = [*map(len, found), *(1 for _ in weights[len(found) :])], 0.0
    for p, place, which in tests:
        largest = max(largest, min(1.0, p * sum(weight for weight, each in zip(weights, left, strict=True) if each)))
        adjusted[place][which] = largest
        left[place] -= 1
    return [tuple(ps) for ps in adjusted]


def agrees(verdict: str, effect: float, adjusted: tuple[float, ...], better: int = -1) -> bool:
    """Whether a verdict is that of its p values; `better` is the sign of an effect that is one."""
    expected = "UNRESOLVED"
    if adjusted[0] < LEVEL:
        expected = "BETTER" if effect * better > 0 else "WORSE"
    elif len(adjusted) > 1 and adjusted[1] < LEVEL:
        expected = "EQUIVALENT"
    near = min(abs(math.log(max(p, 1e-12) / LEVEL)) for p in adjusted) < 0.05  # what is simulated by either
    return near or verdict == expected
