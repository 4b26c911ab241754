"""Every variant against the baseline, on every task and on the suite of them.

One correction holds for the comparisons on single tasks, all tasks together, and another for those on the suite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from ablab.analysis import conditions, oracle
from ablab.analysis.earned import PairingEarned, pairing_earned
from ablab.analysis.estimates import LEVEL
from ablab.analysis.evidence import constant_difference, evidence_of
from ablab.analysis.family import Claim, adjust, interim_analyses, level_after
from ablab.analysis.metrics import check_last, choose_metric
from ablab.analysis.notes import Note, WithinMargin
from ablab.analysis.pairing import (
    Outcome,
    Pairing,
    choose_baseline,
    declared_baseline,
    outcomes,
    seed_notes,
    tasks,
    variants,
)
from ablab.analysis.study_notes import (
    AveragedEvaluations,
    BaselineMissing,
    BaselineNotRun,
    DirectionByName,
    NoSuite,
    NoSuiteVerdict,
    OfBaseline,
    OneVariant,
    SharedMargin,
    StudyNote,
)
from ablab.analysis.suite import join, obstacle, suite_name
from ablab.analysis.verdicts import RESOLVED, Evidence, Verdict, judge
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.record import Direction


class ComparisonSettings(TypedDict, total=False):
    """The arguments of `compare`, as a study declares them or a user asks for them; None is not asked for."""

    baseline: str | None
    metric: str | None
    margin: float | None
    last_k: int | None


@dataclass(frozen=True, kw_only=True)
class Comparison(Evidence):
    """One variant against the baseline, on one task or on the suite: the evidence and what it says."""

    variant: str  # as in the table of runs
    baseline: str
    task: str  # or the name of the suite
    seeds: tuple[int, ...]  # of the complete pairs, in the order of `differences`
    baseline_values: tuple[float, ...]  # the baseline's metric on those seeds
    effect: float | None  # the mean difference; None without a pair or where the two cannot be compared
    p_raw: float | None
    verdict: Verdict
    notes: tuple[Note, ...]  # unequal conditions, missing runs

    @property
    def wins(self) -> int:
        """Seeds on which the variant did better than the baseline."""
        return sum(difference < 0 if self.direction == "min" else difference > 0 for difference in self.differences)


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of a study with one baseline."""

    baseline: str
    items: tuple[Comparison, ...]
    notes: tuple[StudyNote, ...]  # about the comparison as a whole
    metrics: dict[str, str]  # task -> metric, "" if none is known
    level: float = LEVEL  # of every test and interval
    last_k: int = 1  # evaluations of each run that its value is the mean of
    suite: tuple[Comparison, ...] = ()  # each variant on all tasks together
    no_suite: NoSuite | None = None  # why there is none
    earned: PairingEarned | None = None  # by pairing; None where no comparison has the seeds that would tell

    def of_task(self, task: str) -> list[Comparison]:
        return [item for item in self.items if item.task == task]


def check_margin(margin: float | None) -> None:
    """Raises UserError for a margin of equivalence that is not positive."""
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise UserError(f"margin {margin}: give a positive number in the metric's unit, or none")


def compare(
    runs: Runs,
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    last_k: int | None = None,
) -> Comparisons:
    """Compare every variant with the baseline, seed by seed, on every task and on the suite of them.

    The more often the study of these runs was analysed, the stricter (`ablab.analysis.family`).

    Args:
        baseline: overrides that name it, "attention=full"; default: the first variant of the plan.
        metric: any number that the runs have; default: each task's primary metric.
        margin: in the metric's unit; effects inside it count as equivalent. Declare it before looking.
        last_k: the mean of so many last evaluations is compared; default: the final one. Declare it before looking.

    Raises:
        UserError: an unknown baseline or metric, a margin that is not positive, or evaluations that no run has kept.
    """
    check_margin(margin)
    if runs.table.empty:
        raise UserError("no runs to compare")
    last_k = 1 if last_k is None else last_k
    reference = choose_baseline(runs, baseline)
    notes: list[StudyNote] = []
    if analyses := interim_analyses(runs.interim_analyses):
        notes.append(analyses)
    if missing := None if baseline else _missing_baseline(runs, reference):
        notes.append(missing)
    level = level_after(len(runs.interim_analyses))
    judged: list[tuple[Pairing, Evidence]] = []
    metrics: dict[str, str] = {}
    directions: dict[str, Direction] = {}
    without_baseline = []
    for task in tasks(runs):
        metrics[task], directions[task], guessed = choose_metric(runs, task, metric)
        check_last(runs, metrics[task], last_k)
        by_name = DirectionByName(metrics[task], directions[task])
        if guessed and by_name not in notes:
            notes.append(by_name)
        base = outcomes(runs, task, reference, metrics[task], last_k)
        if not base:
            without_baseline.append(task)
            notes.append(BaselineNotRun(task, reference))
        where = task if len(tasks(runs)) > 1 else ""
        notes += [OfBaseline(where, note) for note in seed_notes(base, metrics[task])]
        if known := oracle.known_values(runs, task, metrics[task]):
            notes.append(known)
        for variant in variants(runs):
            if variant == reference or (task, variant) not in runs.places:
                continue
            own = outcomes(runs, task, variant, metrics[task], last_k)
            pairing = Pairing(variant, reference, task, metrics[task], own, base)
            judged.append((pairing, evidence_of(runs, pairing, directions[task], margin, level)))
    notes += _of_all(runs, metrics, margin, last_k)
    no_suite = obstacle(metrics, directions, without_baseline)
    if no_suite and len(metrics) > 1:
        notes.append(NoSuiteVerdict(suite_name(len(metrics)), no_suite))
    suite = () if no_suite else _on_suite(judged, list(metrics))
    items = _on_tasks(judged)
    earned = pairing_earned(runs, items, last_k)
    return Comparisons(reference, items, tuple(notes), metrics, level, last_k, suite, no_suite, earned)


def _missing_baseline(runs: Runs, reference: str) -> BaselineMissing | None:
    """Whether the study declares a baseline that was not run."""
    declared = declared_baseline(runs)
    if not declared:
        return None
    try:
        choose_baseline(runs, declared)
    except UserError:
        return BaselineMissing(declared, reference)
    return None


def _of_all(runs: Runs, metrics: dict[str, str], margin: float | None, last_k: int) -> list[StudyNote]:
    """Notes on the comparisons on all tasks."""
    notes: list[StudyNote] = [OneVariant()] if len(variants(runs)) == 1 else []
    named = tuple(dict.fromkeys(name for name in metrics.values() if name))
    if margin is not None and len(named) > 1:
        notes.append(SharedMargin(margin, named))
    if last_k > 1:
        notes.append(AveragedEvaluations(named, last_k))
    return notes


def _on_tasks(judged: list[tuple[Pairing, Evidence]]) -> tuple[Comparison, ...]:
    adjusted = adjust(
        [Claim(p.task, evidence, _values(p.of_variant), _values(p.of_baseline)) for p, evidence in judged]
    )
    return tuple(
        _conclude(
            pairing.variant,
            pairing.baseline,
            pairing.task,
            evidence,
            p,
            pairing.seeds,
            _values(pairing.of_baseline),
            _notes(pairing, evidence),
        )
        for (pairing, _), (evidence, p) in zip(judged, adjusted, strict=True)
    )


def _on_suite(judged: list[tuple[Pairing, Evidence]], tasks: list[str]) -> tuple[Comparison, ...]:
    joined = join(judged, tasks)
    adjusted = adjust([each.claim for each in joined])
    return tuple(
        _conclude(
            each.variant, judged[0][0].baseline, each.claim.task, evidence, p, each.seeds, each.claim.base, each.notes()
        )
        for each, (evidence, p) in zip(joined, adjusted, strict=True)
    )


def _values(side: dict[int, Outcome]) -> dict[int, float]:
    return {seed: outcome.value for seed, outcome in side.items()}


def _conclude(
    variant: str,
    baseline: str,
    task: str,
    evidence: Evidence,
    p_raw: float | None,
    seeds: list[int],
    base: Mapping[int, float],  # the baseline's value of each
    notes: Sequence[Note],
) -> Comparison:
    """The verdict, and the notes beside it."""
    verdict = judge(evidence)
    differences, estimate, margin = evidence.differences, evidence.estimate, evidence.margin
    inside = verdict in RESOLVED and estimate and margin and estimate.within(margin, evidence.level)
    within = [WithinMargin(margin)] if inside and margin else []
    return Comparison(
        **vars(evidence),
        variant=variant,
        baseline=baseline,
        task=task,
        seeds=() if evidence.blocked else tuple(seeds),
        baseline_values=() if evidence.blocked else tuple(base[seed] for seed in seeds),
        effect=math.fsum(differences) / len(differences) if differences else None,
        p_raw=p_raw,
        verdict=verdict,
        notes=(*within, *notes),
    )


def _notes(pairing: Pairing, evidence: Evidence) -> list[Note]:
    notes = conditions.notes(pairing)
    quality = any(pairing.metric in own.measured for own, _ in pairing.pairs)
    if quality and not evidence.identical and (constant := constant_difference(pairing)) is not None:
        notes.append(constant)
    return notes + pairing.gaps()
