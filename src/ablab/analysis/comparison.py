"""Every variant against the baseline, on every task, with one correction for all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ablab.analysis import conditions, effects, looks, oracle
from ablab.analysis.dunnett import dunnett_critical, dunnett_p
from ablab.analysis.estimates import (
    FEWEST_SEEDS,
    FULL_SEEDS,
    LEVEL,
    Estimate,
    FloatArray,
    correlation,
    holm,
    paired,
    pooled,
)
from ablab.analysis.metrics import choose_metric
from ablab.analysis.pairing import (
    Outcome,
    Pairing,
    choices,
    choose_baseline,
    declared_baseline,
    label,
    outcomes,
    remarks,
    tasks,
    variants,
)
from ablab.analysis.verdicts import RESOLVED, Evidence, Verdict, judge
from ablab.errors import UserError
from ablab.results.collect import Runs


@dataclass(frozen=True, kw_only=True)
class Comparison(Evidence):
    """One variant against the baseline on one task: the evidence and what it says."""

    variant: str  # as in the table of runs
    baseline: str
    task: str
    seeds: tuple[int, ...]  # of the complete pairs, in the order of `differences`
    baseline_values: tuple[float, ...]  # the baseline's metric on those seeds
    effect: float | None  # the mean difference; None without a pair or where the two cannot be compared
    p_raw: float | None
    verdict: Verdict
    sentence: str
    notes: tuple[str, ...]  # unequal conditions, missing runs

    @property
    def wins(self) -> int:
        """Seeds on which the variant did better than the baseline."""
        return sum(difference < 0 if self.direction == "min" else difference > 0 for difference in self.differences)

    @property
    def line(self) -> str:
        """The verdict as one line that says whom it is about."""
        about = "" if self.label in self.sentence else f"{self.label}: "
        return f"{self.verdict.value:<10}  {about}{self.sentence}"


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of a study with one baseline."""

    baseline: str
    items: tuple[Comparison, ...]
    notes: tuple[str, ...]  # about the comparison as a whole
    metrics: dict[str, str]  # task -> metric, "" if none is known
    level: float = LEVEL  # of every test and interval

    def of_task(self, task: str) -> list[Comparison]:
        return [item for item in self.items if item.task == task]


def compare(
    runs: Runs, baseline: str | None = None, metric: str | None = None, margin: float | None = None
) -> Comparisons:
    """Compare every variant with the baseline, seed by seed, on every task.

    The more often the study of these runs was looked at, the stricter (`ablab.analysis.looks`).

    Args:
        baseline: overrides that name it, "attention=full"; default: the first variant of the plan.
        metric: any figure that the runs have; default: each task's primary metric.
        margin: in the metric's unit; effects inside it count as equivalent. Declare it before looking.

    Raises:
        UserError: an unknown baseline or metric, or a margin that is not positive.
    """
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise UserError(f"margin {margin}: give a positive number in the metric's unit, or none")
    if runs.table.empty:
        raise UserError("no runs to compare")
    reference = choose_baseline(runs, baseline)
    judged: list[tuple[Pairing, Evidence]] = []
    level = looks.level_after(len(runs.looks))
    notes = [line] if (line := looks.remark(runs.looks)) else []
    if not baseline and (declared := declared_baseline(runs)):
        try:
            choose_baseline(runs, declared)
        except UserError:
            notes.append(f"no run has the study's baseline {declared}: compared with {reference}, the first variant.")
    metrics: dict[str, str] = {}
    for task in tasks(runs):
        metrics[task], direction, said = choose_metric(runs, task, metric)
        if said and said not in notes:
            notes.append(said)
        base = outcomes(runs, task, reference, metrics[task])
        if not base:
            notes.append(f"{task}: the baseline {reference} was not run on this task.")
        where = f"{task}, " if len(tasks(runs)) > 1 else ""
        notes += [f"{where}baseline {line}" for line in remarks(base, metrics[task])]
        if known := oracle.known_values(runs, task, metrics[task]):
            notes.append(f"{where}{known}")
        for variant in variants(runs):
            if variant == reference or (task, variant) not in runs.places:
                continue
            own = outcomes(runs, task, variant, metrics[task])
            pairing = Pairing(variant, reference, task, metrics[task], own, base)
            judged.append((pairing, _evidence(runs, pairing, direction, margin, level)))
    if len(variants(runs)) == 1:
        notes.append("one variant: nothing to compare.")
    adjusted = _adjust(judged)
    items = tuple(_conclude(pairing, evidence, p) for pairing, evidence, p in adjusted)
    return Comparisons(reference, items, tuple(notes), metrics, level)


def _evidence(runs: Runs, pairing: Pairing, direction: str, margin: float | None, level: float) -> Evidence:
    """What is known of one comparison before the others are looked at."""
    blocked = conditions.other_corpus(pairing)
    identical = _identical(pairing)
    same = effects.unchanged(pairing) if identical or effects.sums_vary(pairing) else ()
    own, base = choices(runs, pairing.variant), choices(runs, pairing.baseline)
    ended, diverged = _ends(pairing.of_variant)
    baseline_ended, baseline_diverged = _ends(pairing.of_baseline)
    return Evidence(
        label=label(runs, pairing.variant, pairing.baseline),
        overrides=",".join(f"{k}={v}" for k, v in own.items() if v != base[k] and v) or pairing.variant,
        metric=pairing.metric,
        direction="max" if direction == "max" else "min",
        planned=len(pairing.planned),
        differences=() if blocked else tuple(pairing.differences),
        ended=ended,
        diverged=diverged,
        baseline_ended=baseline_ended,
        baseline_diverged=baseline_diverged,
        correlation=None if blocked else correlation(pairing.values, pairing.baseline_values),
        margin=margin,
        level=level,
        identical=identical or bool(same),
        unchanged=same,
        blocked=blocked,
    )


def _ends(side: dict[int, Outcome]) -> tuple[int, int]:
    """(runs that finished or diverged, those that diverged)."""
    statuses = [outcome.record.status for outcome in side.values()]
    diverged = statuses.count("diverged")
    return statuses.count("ok") + diverged, diverged


def _identical(pairing: Pairing) -> bool:
    """Is every final metric of every pair the baseline's, to the last bit, from a model of the same size?

    Only where a metric of quality is compared: two ways of training that give the same model may differ in cost.
    """
    return bool(pairing.pairs) and all(
        pairing.metric in own.metrics and own.metrics == base.metrics and own.cost.parameters == base.cost.parameters
        for own, base in pairing.pairs
    )


def _adjust(judged: list[tuple[Pairing, Evidence]]) -> list[tuple[Pairing, Evidence, float | None]]:
    """Intervals and adjusted p values for the comparisons that have enough seeds; with each its raw p value.

    Variants that are the baseline under another name make no claim: they neither count among the comparisons nor calm
    the pooled variance.
    """
    claims = [
        (pairing, evidence, _estimate(pairing, judged))
        for pairing, evidence in judged
        if len(evidence.differences) >= FEWEST_SEEDS and not evidence.identical
    ]
    families = tuple(
        sum(pairing.task == task for pairing, _, _ in claims)
        for task in dict.fromkeys(pairing.task for pairing, _, _ in claims)
    )
    corrected = dict(zip((id(p) for p, _, _ in claims), holm([e.p_value for _, _, e in claims]), strict=True))
    estimates = {id(pairing): estimate for pairing, _, estimate in claims}
    adjusted: list[tuple[Pairing, Evidence, float | None]] = []
    for pairing, evidence in judged:
        estimate = estimates.get(id(pairing))
        if estimate is None:
            adjusted.append((pairing, evidence, None))
            continue
        if evidence.preliminary:
            interval, p = _dunnett(estimate, families, evidence.level)
            evidence = replace(evidence, interval=interval, p_adjusted=p, adjustment="Dunnett")
        else:
            interval, p = estimate.interval(1 - evidence.level), corrected[id(pairing)]
            evidence = replace(evidence, interval=interval, p_adjusted=p, adjustment="Holm")
        adjusted.append((pairing, replace(evidence, estimate=estimate), estimate.p_value))
    return adjusted


def _estimate(pairing: Pairing, judged: list[tuple[Pairing, Evidence]]) -> Estimate:
    if len(pairing.differences) >= FULL_SEEDS:
        return paired(pairing.differences)
    sides = [pairing.of_baseline]
    sides += [
        other.of_variant
        for other, evidence in judged
        if other.task == pairing.task and not evidence.blocked and not evidence.identical
    ]
    return pooled(pairing.differences, _values(sides))


def _values(sides: list[dict[int, Outcome]]) -> FloatArray:
    """[variants, seeds] of the metric, NaN where a run has none."""
    seeds = sorted({seed for side in sides for seed in side})
    return np.array([[side[seed].value if seed in side else math.nan for seed in seeds] for side in sides])


def _dunnett(estimate: Estimate, families: tuple[int, ...], level: float) -> tuple[tuple[float, float], float]:
    """The simultaneous interval and the adjusted p value."""
    interval = estimate.around(dunnett_critical(estimate.degrees, families, level))
    if estimate.standard_error == 0:
        return interval, estimate.p_value
    return interval, dunnett_p(abs(estimate.effect) / estimate.standard_error, estimate.degrees, families)


def _conclude(pairing: Pairing, evidence: Evidence, p_raw: float | None) -> Comparison:
    verdict, sentence = judge(evidence)
    differences = evidence.differences
    return Comparison(
        **vars(evidence),
        variant=pairing.variant,
        baseline=pairing.baseline,
        task=pairing.task,
        seeds=() if evidence.blocked else tuple(pairing.seeds),
        baseline_values=() if evidence.blocked else tuple(pairing.baseline_values),
        effect=math.fsum(differences) / len(differences) if differences else None,
        p_raw=p_raw,
        verdict=verdict,
        sentence=sentence,
        notes=tuple(_notes(pairing, evidence, verdict)),
    )


def _notes(pairing: Pairing, evidence: Evidence, verdict: Verdict) -> list[str]:
    found = "gain" if verdict is Verdict.BETTER else "loss" if verdict is Verdict.WORSE else "difference"
    notes = conditions.notes(pairing, evidence.label, found)
    estimate, margin = evidence.estimate, evidence.margin
    if verdict in RESOLVED and estimate and margin and estimate.within(margin, evidence.level):
        notes.append(f"Resolved, but within the declared margin of {margin:g}.")
    constant = len(evidence.differences) >= FEWEST_SEEDS and len(set(evidence.differences)) == 1
    if constant and not evidence.identical and any(pairing.metric in own.metrics for own, _ in pairing.pairs):
        notes.append("The difference is the same on every seed, to the last bit: does the seed reach the run?")
    return notes + pairing.gaps()
