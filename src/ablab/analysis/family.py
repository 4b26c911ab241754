"""Corrections: what each comparison may claim depends on how many there are, and on how often a study was analysed.

With `FULL_SEEDS` pairs or more a comparison has the paired t interval and a p value adjusted by Holm's method over all
claims of its family; with fewer, a standard error that the comparisons of its task share, and an interval and a p value
that hold for all of them at once (`ablab.analysis.shared_error`). Variants that are the baseline under another name make
no claim: they neither count among the comparisons nor calm the shared variance.

Analysing a study more than once costs, too: its level is divided by the number of its interim analyses so far
(Bonferroni). At the j-th, a study's intervals, verdicts, equivalence tests, detectable effects and seeds needed are all
at `LEVEL` / j. Analysing one study k times at `LEVEL` / k makes a false claim with at most the probability `LEVEL`.

How many there will be is not known at the first one, which has the whole `LEVEL` to itself. So whoever stops at the
first resolved verdict still claims falsely somewhat more often than that: at most at the sum of `LEVEL` / j. By
simulation (paired t, no effect, analyses at 3, 5, 8 and 10 seeds, stopping at the first that is significant):

    each at LEVEL                             .135
    the j-th at LEVEL / j, as here            .080
    all four at LEVEL / 4                     .039
    the j-th at LEVEL / (j (j + 1))           .034

The last holds `LEVEL` however many follow, and would set every study that is analysed once to 97.5%. That is too much
to ask of those who stick to the seeds they planned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ablab.analysis.estimates import (
    FEWEST_SEEDS,
    FULL_SEEDS,
    LEVEL,
    Estimate,
    Interval,
    holm,
    paired,
)
from ablab.analysis.shared_error import mean_variance, shared_critical, shared_p, with_shared_error
from ablab.analysis.study_notes import InterimAnalyses
from ablab.analysis.verdicts import Evidence
from ablab.results.interim import InterimAnalysis

SHARED = "simultaneous"  # adjustment of what rests on a shared standard error
Values = Mapping[int, float]  # of the metric by seed, NaN where a run has none


def level_after(analyses: int) -> float:
    """The level of each test and interval of a study that was analysed so often. None counts as one."""
    return LEVEL / max(analyses, 1)


def interim_analyses(looks: Sequence[InterimAnalysis]) -> InterimAnalyses | None:
    """The fact that a study was analysed more than once; None where it was not."""
    if len(looks) < 2:
        return None
    return InterimAnalyses(tuple(len(look.seeds) for look in looks), level_after(len(looks)))


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
    shared = {task: _variance(task, claims) for task in {each.task for each in claims if _is_pooled(each)}}
    estimates = [_estimate(claim, shared) for claim in claims]
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
            interval, p, adjustment = *_simultaneous(estimate, families, level), SHARED
        else:
            interval, p, adjustment = estimate.interval(1 - level), p_of_holm, "Holm"
        found = replace(claim.evidence, estimate=estimate, interval=interval, p_adjusted=p, adjustment=adjustment)
        adjusted.append((found, estimate.p_value))
    return adjusted


def _is_pooled(claim: Claim) -> bool:
    return claim.counts and len(claim.evidence.differences) < FULL_SEEDS


def _estimate(claim: Claim, shared: Mapping[str, float]) -> Estimate | None:
    if not claim.counts:
        return None
    if _is_pooled(claim):
        return with_shared_error(claim.evidence.differences, shared[claim.task])
    return paired(claim.evidence.differences)


def _variance(task: str, claims: Sequence[Claim]) -> float:
    """That of a paired difference, by all comparisons on the task that share their standard error."""
    return mean_variance([each.evidence.differences for each in claims if each.task == task and _is_pooled(each)])


def _simultaneous(estimate: Estimate, families: tuple[int, ...], level: float) -> tuple[Interval, float]:
    """The interval and the adjusted p value."""
    interval = estimate.around(shared_critical(estimate.degrees, families, level))
    if estimate.standard_error == 0:
        return interval, estimate.p_value
    return interval, shared_p(abs(estimate.effect) / estimate.standard_error, estimate.degrees, families)
