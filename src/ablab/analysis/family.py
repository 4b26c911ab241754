"""Corrections: what each comparison may claim depends on how many there are.

All comparisons of a study are one family: the probability that any of its claims is false is at most `LEVEL`. Where
tasks make a suite, the comparisons on the suite hold half of it together and those on single tasks the other half;
without one, all hold the same share. Two claims of a comparison, that there is an effect and that it lies inside the
declared margin, hold one share, since at most one of them is false. With `FULL_SEEDS` pairs or more a comparison has
the paired t interval, and p values that step down over all claims (`ablab.analysis.step_down`). With fewer, a
standard error that the comparisons of its task share, and an interval that holds for all of them at once and decides
about both claims (`ablab.analysis.shared_error`), at the share that such comparisons hold together. Variants that are
the baseline under another name make no claim: they hold no share and do not calm the shared variance.

Where a study has several looks, planned or not, what is corrected are sequential p values, and intervals are at the
level of the present look (`ablab.analysis.looks`). Planned looks are those of the paired t, also at three seeds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy import special

from ablab.analysis.estimates import (
    FEWEST_SEEDS,
    FULL_SEEDS,
    LEVEL,
    Estimate,
    paired,
)
from ablab.analysis.shared_error import level_in_plan, mean_variance, shared_critical, shared_p, with_shared_error
from ablab.analysis.step_down import PValues, step_down
from ablab.analysis.verdicts import Evidence

# Costs that are the same for every seed: without spread they differ for certain.
COUNTED = frozenset(
    {"parameters", "active_parameters", "flops_per_step", "flops_total", "tokens", "steps"}
    | {f"{cost}_{length}" for cost in ("cache_bytes", "decode_flops") for length in ("1k", "8k", "64k")}
    | {"prefill_flops"}
)
Values = Mapping[int, float]  # of the metric by seed, NaN where a run has none


@dataclass(frozen=True)
class Claim:
    """One comparison before the others are considered."""

    task: str  # comparisons on one task share their baseline's runs
    evidence: Evidence
    own: Values
    base: Values
    on_suite: bool = False

    @property
    def counts(self) -> bool:
        return len(self.evidence.differences) >= FEWEST_SEEDS and not self.evidence.identical

    @property
    def pooled(self) -> bool:
        return self.counts and len(self.evidence.differences) < FULL_SEEDS and not self.evidence.looks.planned_several

    @property
    def differences(self) -> dict[int, float]:
        """Seed -> variant minus baseline, of the complete pairs."""
        found = {seed: self.own[seed] - self.base[seed] for seed in sorted(self.own.keys() & self.base.keys())}
        return {seed: difference for seed, difference in found.items() if math.isfinite(difference)}


@dataclass(frozen=True)
class _Made:
    """A claim with its estimate and its weight in the family, of any scale."""

    claim: Claim
    estimate: Estimate
    weight: int


def raw_p_values(claim: Claim, estimate: Estimate) -> PValues:
    """The p values of one comparison alone, of either kind, before the others are considered.

    Each is the smallest level at which the comparison would make that claim if it were the only one.
    """
    margin, looks, choice = claim.evidence.margin, claim.evidence.looks, claim.evidence.choice or 0.0
    if is_certain(claim.evidence, estimate):
        return PValues(float(estimate.effect == 0), None if margin is None else float(abs(estimate.effect) >= margin))
    if not looks.several:
        return PValues(estimate.p_value, None if margin is None else estimate.equivalence_p(margin))
    difference = looks.p_value(claim.differences, lambda seen: paired(seen, choice).p_value)
    if margin is None:
        return PValues(difference)
    equivalence = looks.p_value(claim.differences, lambda seen: paired(seen, choice).equivalence_p(margin), 1)
    return PValues(difference, equivalence)


def is_certain(evidence: Evidence, estimate: Estimate) -> bool:
    """Whether it is a cost that is counted, and the same for every seed."""
    return estimate.standard_error == 0 and evidence.metric in COUNTED


def weights(on_suite: int, on_tasks: int) -> tuple[int, int]:
    """The weight of a comparison on the suite and of one on a task, in whole numbers: each kind holds a half."""
    return (on_tasks, on_suite) if on_suite and on_tasks else (1, 1)


def planned_level(seeds: int, on_tasks: Sequence[int], on_suite: int, task: int | None) -> tuple[int, float]:
    """(degrees of freedom, level) of a comparison in a study that is planned, while no other one is resolved.

    Args:
        on_tasks: comparisons on each task.
        on_suite: comparisons on the suite; 0 without one.
        task: the place of its task; None: it is on the suite.
    """
    families = (on_suite,) if task is None else tuple(on_tasks)
    of_suite, of_task = weights(on_suite, sum(on_tasks))
    weight = of_suite if task is None else of_task
    total = on_suite * of_suite + sum(on_tasks) * of_task
    if seeds >= FULL_SEEDS:
        return seeds - 1, LEVEL * weight / total
    return seeds - 1, level_in_plan(families, LEVEL * weight * sum(families) / total)


def adjust(claims: Sequence[Claim]) -> list[tuple[Evidence, float | None]]:
    """For each claim its evidence with estimate, intervals and adjusted p values, and the raw p of a difference.

    Args:
        claims: all of a study, on the suite and on tasks. Evidence that makes no claim is given back as it is.
    """
    shared = {task: _variance(task, claims) for task in {each.task for each in claims if each.pooled}}
    estimates = [_estimate(claim, shared) for claim in claims]
    kinds = Counter(claim.on_suite for claim, estimate in zip(claims, estimates, strict=True) if estimate)
    of_suite, of_task = weights(kinds[True], kinds[False])
    made = [
        _Made(claim, estimate, of_suite if claim.on_suite else of_task)
        for claim, estimate in zip(claims, estimates, strict=True)
        if estimate
    ]
    found = iter(_evidence(made))
    return [
        (next(found), estimate.p_value) if estimate else (claim.evidence, None)
        for claim, estimate in zip(claims, estimates, strict=True)
    ]


def _evidence(made: Sequence[_Made]) -> list[Evidence]:
    """The evidence of all claims that are made, in their order."""
    total = sum(each.weight for each in made)
    own = [each for each in made if not each.claim.pooled]
    reserved = total - sum(each.weight for each in own)
    raw = [raw_p_values(each.claim, each.estimate) for each in own]
    stepped = iter(step_down(raw, [each.weight for each in own], reserved))
    kinds = {each.claim.on_suite for each in made if each.claim.pooled}
    groups = {on_suite: _Group.of(made, on_suite, total) for on_suite in kinds}
    return [
        groups[each.claim.on_suite].evidence(each) if each.claim.pooled else _alone(each, next(stepped), total)
        for each in made
    ]


def _alone(made: _Made, adjusted: PValues, total: int) -> Evidence:
    """With the paired t interval."""
    evidence, estimate = made.claim.evidence, made.estimate
    share_level = evidence.looks.level(LEVEL * made.weight / total)
    return replace(
        evidence,
        estimate=estimate,
        interval=estimate.interval(1 - evidence.level),
        simultaneous=estimate.interval(1 - share_level),
        share_level=share_level,
        p_adjusted=adjusted.difference,
        p_equivalence=adjusted.equivalence,
        adjustment="Holm",
    )


@dataclass(frozen=True)
class _Group:
    """Comparisons with shared standard errors that hold a share of the level together."""

    families: tuple[int, ...]  # how many share a baseline, for each baseline
    share: float

    @classmethod
    def of(cls, made: Sequence[_Made], on_suite: bool, total: int) -> _Group:
        pooled = [each for each in made if each.claim.pooled and each.claim.on_suite == on_suite]
        families = Counter(each.claim.task for each in pooled)
        return cls(tuple(families.values()), sum(each.weight for each in pooled) / total)

    def evidence(self, made: _Made) -> Evidence:
        """With the interval of all at once, which decides about a difference and about equivalence."""
        evidence, estimate = made.claim.evidence, made.estimate
        critical = shared_critical(estimate.degrees, self.families, evidence.level * self.share)
        beyond = None if evidence.margin is None else evidence.margin - abs(estimate.effect)
        return replace(
            evidence,
            estimate=estimate,
            interval=estimate.around(critical),
            simultaneous=estimate.around(critical),
            share_level=float(2 * special.stdtr(estimate.degrees, -critical)),
            p_adjusted=self._p_value(made, abs(estimate.effect)),
            p_equivalence=None if beyond is None else self._p_value(made, max(beyond, 0.0)),
            adjustment="simultaneous",
        )

    def _p_value(self, made: _Made, distance: float) -> float:
        """The smallest level of the study at which the intervals end nearer than `distance` to the effects."""
        evidence, estimate = made.claim.evidence, made.estimate
        if estimate.standard_error == 0:
            return 1.0 if not distance else 0.0 if is_certain(evidence, estimate) else estimate.p_value
        share = self.share * evidence.level / LEVEL
        p = min(1.0, shared_p(distance / estimate.standard_error, estimate.degrees, self.families) / share)
        return max(p, estimate.p_value) if estimate.tied else p


def _estimate(claim: Claim, shared: Mapping[str, float]) -> Estimate | None:
    if not claim.counts:
        return None
    differences, choice = claim.evidence.differences, claim.evidence.choice or 0.0
    if claim.pooled:
        return with_shared_error(differences, shared[claim.task], choice)
    return paired(differences, choice)


def _variance(task: str, claims: Sequence[Claim]) -> float:
    """That of a paired difference, by all comparisons on the task that share their standard error."""
    return mean_variance([each.evidence.differences for each in claims if each.task == task and each.pooled])
