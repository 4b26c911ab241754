"""Corrections: what each comparison may claim depends on how many there are.

With `FULL_SEEDS` pairs or more a comparison has the paired t interval and a p value adjusted by Holm's method over all
claims of its family; with fewer, the standard error that is pooled over the variants of its task and Dunnett's
interval and p value. Variants that are the baseline under another name make no claim: they neither count among the
comparisons nor calm the pooled variance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ablab.analysis.dunnett import dunnett_critical, dunnett_p
from ablab.analysis.estimates import (
    FEWEST_SEEDS,
    FULL_SEEDS,
    Estimate,
    FloatArray,
    from_pool,
    holm,
    paired,
    residual_variance,
)
from ablab.analysis.verdicts import Evidence

Values = Mapping[int, float]  # of the metric by seed, NaN where a run has none


@dataclass(frozen=True)
class Claim:
    """One comparison before the others are considered."""

    task: str  # comparisons on one task share their baseline's runs
    evidence: Evidence
    own: Values
    base: Values

    @property
    def counts(self) -> bool:
        return len(self.evidence.differences) >= FEWEST_SEEDS and not self.evidence.identical


def adjust(claims: Sequence[Claim]) -> list[tuple[Evidence, float | None]]:
    """For each claim its evidence with estimate, interval and adjusted p value, and the raw p value.

    Evidence that makes no claim is given back as it is.
    """
    pools = {task: _pool(task, claims) for task in {each.task for each in claims if _is_pooled(each)}}
    estimates = [_estimate(claim, pools) for claim in claims]
    made = [(claim, estimate) for claim, estimate in zip(claims, estimates, strict=True) if estimate]
    families = tuple(Counter(claim.task for claim, _ in made).values())
    corrected = iter(holm([estimate.p_value for _, estimate in made]))
    adjusted: list[tuple[Evidence, float | None]] = []
    for claim, estimate in zip(claims, estimates, strict=True):
        if estimate is None:
            adjusted.append((claim.evidence, None))
            continue
        p_of_holm, level = next(corrected), claim.evidence.level
        if _is_pooled(claim):
            interval, p, adjustment = *_dunnett(estimate, families, level), "Dunnett"
        else:
            interval, p, adjustment = estimate.interval(1 - level), p_of_holm, "Holm"
        found = replace(claim.evidence, estimate=estimate, interval=interval, p_adjusted=p, adjustment=adjustment)
        adjusted.append((found, estimate.p_value))
    return adjusted


def _is_pooled(claim: Claim) -> bool:
    return claim.counts and len(claim.evidence.differences) < FULL_SEEDS


def _estimate(claim: Claim, pools: Mapping[str, tuple[float, int]]) -> Estimate | None:
    if not claim.counts:
        return None
    if _is_pooled(claim):
        return from_pool(claim.evidence.differences, *pools[claim.task])
    return paired(claim.evidence.differences)


def _pool(task: str, claims: Sequence[Claim]) -> tuple[float, int]:
    """The variance that the variants of a task leave, and its degrees of freedom."""
    of_task = [claim for claim in claims if claim.task == task]
    base = next(claim.base for claim in of_task if claim.counts)
    own = [claim.own for claim in of_task if not claim.evidence.blocked and not claim.evidence.identical]
    return residual_variance(_table([base, *own]))


def _table(sides: Sequence[Values]) -> FloatArray:
    """[variants, seeds] of the metric, NaN where a run has none."""
    seeds = sorted({seed for side in sides for seed in side})
    return np.array([[side.get(seed, math.nan) for seed in seeds] for side in sides])


def _dunnett(estimate: Estimate, families: tuple[int, ...], level: float) -> tuple[tuple[float, float], float]:
    """The simultaneous interval and the adjusted p value."""
    interval = estimate.around(dunnett_critical(estimate.degrees, families, level))
    if estimate.standard_error == 0:
        return interval, estimate.p_value
    return interval, dunnett_p(abs(estimate.effect) / estimate.standard_error, estimate.degrees, families)
