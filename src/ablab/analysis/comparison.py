"""Every variant against the baseline, or against the one before it, on every task and on the suite of them.

One correction holds for all of them (`ablab.analysis.family`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypedDict

from ablab.analysis import oracle, placebos
from ablab.analysis.baseline import Baselines, choose_baselines, declared_baseline
from ablab.analysis.conclusions import conclude, interval_unit
from ablab.analysis.divergence import divergence_notes
from ablab.analysis.earned import PairingEarned, pairing_earned
from ablab.analysis.estimates import LEVEL
from ablab.analysis.evidence import evidence_of
from ablab.analysis.ladder_rules import ladder_rules
from ablab.analysis.looks import interim_analyses, looks_of
from ablab.analysis.margin import check_margin, was_declared
from ablab.analysis.metrics import check_last, choose_metric
from ablab.analysis.pairing import Pairing, outcomes, seed_notes, tasks, variants
from ablab.analysis.placebos import Placebos
from ablab.analysis.study_notes import (
    AveragedEvaluations,
    BaselineMissing,
    BaselineNotRun,
    DirectionByName,
    InSteps,
    IntervalUnit,
    NoSuite,
    NoSuiteVerdict,
    OfBaseline,
    OneVariant,
    SharedMargin,
    StudyNote,
)
from ablab.analysis.suite import join, obstacle, suite_name
from ablab.analysis.verdicts import Comparison as Comparison
from ablab.analysis.verdicts import Evidence, Intervals, Split, Verdict
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.record import Direction


class ComparisonSettings(TypedDict, total=False):
    """The arguments of `compare`, as a study declares them or a user asks for them; None is not asked for."""

    baseline: str | None
    metric: str | None
    margin: float | None
    margin_declared: bool
    last_k: int | None
    split: Split | None
    intervals: Intervals | None


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of a study with one baseline, or of each variant with the one before it."""

    baselines: Baselines
    items: tuple[Comparison, ...]
    notes: tuple[StudyNote, ...]  # about the comparison as a whole
    metrics: dict[str, str]  # task -> metric, "" if none is known
    level: float = LEVEL  # of every test and interval
    last_k: int = 1  # evaluations of each run that its value is the mean of
    suite: tuple[Comparison, ...] = ()  # each variant on all tasks together
    no_suite: NoSuite | None = None  # why there is none
    unit: IntervalUnit | None = None  # of all intervals; None where there are none
    placebos: Placebos = field(default_factory=Placebos)
    earned: PairingEarned | None = None  # by pairing; None where no comparison has the seeds that would tell

    @property
    def baseline(self) -> str:
        """With which all variants are compared, or upon which they follow one after the other."""
        return self.baselines.first

    @property
    def apart(self) -> frozenset[tuple[str, str]]:
        """(task, variant) that other variants are not held against: it, or one that it follows, is NOT COMPARABLE."""
        blocked = {(item.task, item.variant) for item in self.items if item.verdict is Verdict.NOT_COMPARABLE}
        return frozenset(
            (item.task, item.variant)
            for item in self.items
            if any((item.task, each) in blocked for each in self.baselines.behind(item.variant))
        )

    def of_task(self, task: str) -> list[Comparison]:
        return [item for item in self.items if item.task == task]


def compare(
    runs: Runs,
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    last_k: int | None = None,
    margin_declared: bool = False,
    split: Split | None = None,
    intervals: Intervals | None = None,
) -> Comparisons:
    """Compare every variant with its baseline, seed by seed, on every task and on the suite of them.

    The more often the study of these runs is analysed, the stricter (`ablab.analysis.looks`).

    Args:
        baseline: overrides that name it, "attention=full"; `previous`: the variant before each in the plan; default:
            what the study declares, else the first variant of the plan.
        metric: any number that the runs have; default: each task's primary metric.
        margin: in the metric's unit; effects inside it count as equivalent. Declare it before looking.
        last_k: the mean of so many last evaluations is compared; default: the final one. Declare it before looking.
        margin_declared: the plan of the study has this margin, so that it was chosen before looking, unless a record
            says otherwise.
        split: of each task's primary metric, "validation" or "test"; default: the one that it is of. Declare it
            before looking.
        intervals: that are shown, "single" ones or "simultaneous" ones; default: single.

    Raises:
        UserError: an unknown baseline or metric, a margin that is not positive, evaluations that no run has kept, or a
            split that a task does not have, or that is given beside a metric.
    """
    check_margin(margin)
    if metric and split:
        raise UserError(f"split {split}: the metric {metric} says of which split it is; leave one of the two out")
    if runs.table.empty:
        raise UserError("no runs to compare")
    last_k = 1 if last_k is None else last_k
    baselines = choose_baselines(runs, baseline)
    reference = baselines.first
    notes: list[StudyNote] = []
    if missing := None if baseline else _missing_baseline(runs, reference):
        notes.append(missing)
    looks = looks_of(runs)
    judged: list[tuple[Pairing, Evidence]] = []
    placebo_pairs: list[tuple[Pairing, Evidence]] = []
    metrics: dict[str, str] = {}
    directions: dict[str, Direction] = {}
    without_baseline = []
    for task in tasks(runs):
        metrics[task], directions[task], guessed = choose_metric(runs, task, metric, split)
        check_last(runs, metrics[task], last_k)
        by_name = DirectionByName(metrics[task], directions[task])
        if guessed and by_name not in notes:
            notes.append(by_name)
        found_of = {variant: outcomes(runs, task, variant, metrics[task], last_k) for variant in variants(runs)}
        base = found_of[reference]
        if not base and not baselines.steps:
            without_baseline.append(task)
        where = task if len(tasks(runs)) > 1 else ""
        notes += [OfBaseline(where, note) for note in ([] if baselines.steps else seed_notes(base, metrics[task]))]
        if known := oracle.known_values(runs, task, metrics[task]):
            notes.append(known)
        for variant in variants(runs):
            if variant == reference or (task, variant) not in runs.places:
                continue
            before = baselines.of(variant)
            missing_base = BaselineNotRun(task, before)
            if not found_of[before] and missing_base not in notes:
                notes.append(missing_base)
            pairing = Pairing(variant, before, task, metrics[task], found_of[variant], found_of[before])
            pairing = replace(pairing, in_steps=bool(baselines.steps))
            pairing = pairing.at_its_look(looks.taken if looks.several else ())
            judged.append((pairing, evidence_of(runs, pairing, directions[task], margin, looks)))
        placebo_pairs += placebos.pairs_of(runs, task, metrics[task], directions[task], last_k, looks)
    declared = was_declared(runs, margin, metrics.values(), margin_declared)
    shown = intervals or "single"
    judged = [(pairing, replace(each, margin_declared=declared, intervals=shown)) for pairing, each in judged]
    judged = _told_apart(judged)
    if analyses := interim_analyses(looks, len(judged)):
        notes.insert(0, analyses)
    notes += _of_all(runs, baselines, metrics, margin, last_k)
    no_suite = obstacle(metrics, directions, without_baseline)
    if no_suite and len(metrics) > 1:
        notes.append(NoSuiteVerdict(suite_name(len(metrics)), no_suite))
    suite, items = conclude([] if no_suite else join(judged, list(metrics)), judged)
    notes += divergence_notes([*suite, *items])
    unit = interval_unit(runs, [*suite, *items])
    found = placebos.compare_placebos(runs, placebo_pairs, [] if no_suite else list(metrics))
    suite, items = found.held_against(suite), found.held_against(items)
    notes += found.notes()
    return Comparisons(
        baselines=baselines,
        items=items,
        notes=tuple(notes),
        metrics=metrics,
        level=looks.level(),
        last_k=last_k,
        suite=suite,
        no_suite=no_suite,
        unit=unit,
        placebos=found,
        earned=pairing_earned(runs, items, last_k),
    )


def _told_apart(judged: list[tuple[Pairing, Evidence]]) -> list[tuple[Pairing, Evidence]]:
    """With labels that no two variants share: what each adds to the one before it may be the same."""
    named: dict[str, set[str]] = {}
    for pairing, evidence in judged:
        named.setdefault(evidence.label, set()).add(pairing.variant)
    return [
        (pairing, evidence if len(named[evidence.label]) == 1 else replace(evidence, label=pairing.variant))
        for pairing, evidence in judged
    ]


def _missing_baseline(runs: Runs, reference: str) -> BaselineMissing | None:
    """Whether the study declares a baseline that was not run."""
    declared = declared_baseline(runs)
    if not declared:
        return None
    try:
        choose_baselines(runs, declared)
    except UserError:
        return BaselineMissing(declared, reference)
    return None


def _of_all(
    runs: Runs, baselines: Baselines, metrics: dict[str, str], margin: float | None, last_k: int
) -> list[StudyNote]:
    """Notes on the comparisons on all tasks."""
    notes: list[StudyNote] = [OneVariant()] if len(variants(runs)) == 1 else []
    sizes = any(record.rung for record in runs.records)
    notes += [InSteps(baselines.first, sizes)] if baselines.steps else []
    notes += ladder_rules(runs)
    named = tuple(dict.fromkeys(name for name in metrics.values() if name))
    if margin is not None and len(named) > 1:
        notes.append(SharedMargin(margin, named))
    if last_k > 1:
        notes.append(AveragedEvaluations(named, last_k))
    return notes
