"""From pairs of runs and their evidence to comparisons: corrected as one family, judged, with notes beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ablab.analysis import conditions
from ablab.analysis.divergence import with_divergence
from ablab.analysis.evidence import constant_difference
from ablab.analysis.family import Claim, adjust, is_certain, raw_p_values
from ablab.analysis.metrics import split_of
from ablab.analysis.notes import ConstantDifference, DecidedBefore, Note, UnlikeNormal, WithinMargin
from ablab.analysis.pairing import Outcome, Pairing
from ablab.analysis.second_opinion import SharedSpread, odd_seeds, second_opinion
from ablab.analysis.step_down import PValues, step_down
from ablab.analysis.study_notes import IntervalUnit
from ablab.analysis.suite import Joined
from ablab.analysis.verdicts import RESOLVED, Comparison, Evidence, Verdict, judge
from ablab.results.collect import Runs

KIND_OF_MACHINE = ("device", "processor")  # what sets one kind apart from another


def conclude(
    joined: Sequence[Joined], judged: Sequence[tuple[Pairing, Evidence]]
) -> tuple[tuple[Comparison, ...], tuple[Comparison, ...]]:
    """The comparisons on the suite and on single tasks, which are one family."""
    claims = [each.claim for each in joined]
    claims += [Claim(p.task, evidence, _values(p.of_variant), _values(p.of_baseline)) for p, evidence in judged]
    found, raw = zip(*adjust(claims), strict=True) if claims else ((), ())
    adjusted = list(zip(with_divergence(_with_second_opinions(found, claims)), raw, strict=True))
    on_suite = tuple(
        _comparison(
            each.variant, each.baseline, each.claim.task, evidence, p, each.seeds, each.claim.base, each.notes()
        )
        for each, (evidence, p) in zip(joined, adjusted, strict=False)
    )
    on_tasks = tuple(
        _comparison(
            pairing.variant,
            pairing.baseline,
            pairing.task,
            evidence,
            p,
            pairing.seeds,
            _values(pairing.of_baseline),
            _notes(pairing, evidence),
        )
        for (pairing, _), (evidence, p) in zip(judged, adjusted[len(joined) :], strict=True)
    )
    return on_suite, on_tasks


def as_one_family(items: Sequence[Comparison], reserved: int = 0) -> list[Comparison]:
    """Comparisons of one or several studies, corrected over all of them together instead of within their own studies.

    All have the same share of the level, by Holm's method. What has no estimate stays as it is, and so do intervals:
    with three seeds they are those that hold together in their own study.

    Args:
        reserved: further comparisons of the family, whose results are not known yet.

    Raises:
        ValueError: `reserved` is negative.
    """
    if reserved < 0:
        raise ValueError(f"reserved={reserved}: there are more comparisons than the family was to have")
    making = [item for item in items if item.estimate]
    adjusted = iter(step_down([_p_values(item) for item in making], [1.0] * len(making), reserved))
    return [_corrected(item, next(adjusted)) if item.estimate else item for item in items]


def _p_values(item: Comparison) -> PValues:
    """Those of the comparison alone, over all its looks."""
    assert item.estimate
    base = dict(zip(item.seeds, item.baseline_values, strict=True))
    own = {seed: base[seed] + difference for seed, difference in zip(item.seeds, item.differences, strict=True)}
    return raw_p_values(Claim(item.task, item, own, base), item.estimate)


def _corrected(item: Comparison, p: PValues) -> Comparison:
    once_more = replace(item, p_adjusted=p.difference, p_equivalence=p.equivalence, adjustment="Holm")
    verdict = judge(once_more)
    others = [note for note in item.notes if not isinstance(note, WithinMargin | DecidedBefore)]
    return replace(once_more, verdict=verdict, notes=(*_on_verdict(once_more, verdict), *others))


def _with_second_opinions(found: Sequence[Evidence], claims: Sequence[Claim]) -> list[Evidence]:
    """The evidence, with a second opinion where a comparison has an interval of its own."""
    on_task: dict[str, list[tuple[float, ...]]] = {}
    for each, claim in zip(found, claims, strict=True):
        if each.estimate and not each.preliminary:
            on_task.setdefault(claim.task, []).append(each.differences)
    shared = {task: SharedSpread.of(differences) for task, differences in on_task.items()}
    count = sum(map(len, on_task.values()))
    made = []
    for each, claim in zip(found, claims, strict=True):
        if each.estimate and not each.preliminary:
            spread = None if is_certain(each, each.estimate) else shared[claim.task]
            p = raw_p_values(claim, each.estimate).difference
            factor = (each.p_adjusted or 0.0) / p if p else float(count)
            second = second_opinion(claim.differences, spread, factor, count, each.choice or 0.0, each.looks)
            each = replace(each, second=second)
        made.append(each)
    return made


def _values(side: dict[int, Outcome]) -> dict[int, float]:
    return {seed: outcome.value for seed, outcome in side.items()}


def _comparison(
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
    differences = evidence.differences
    constant = any(isinstance(note, ConstantDifference) for note in notes)
    first = _on_verdict(evidence, verdict) + ([] if constant else _odd_note(evidence, seeds))
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
        notes=(*first, *notes),
    )


def _on_verdict(evidence: Evidence, verdict: Verdict) -> list[Note]:
    margin = evidence.margin
    found: list[Note] = [WithinMargin(margin)] if margin and verdict in RESOLVED and evidence.equivalent else []
    before = evidence.decided_before if verdict in RESOLVED else evidence.equivalent_before
    return found + ([DecidedBefore()] if before else [])


def _odd_note(evidence: Evidence, seeds: Sequence[int]) -> list[Note]:
    """The flag for seeds that lie apart, where there is a second opinion."""
    odd = odd_seeds(evidence.differences) if evidence.second else None
    if odd is None or evidence.second is None or evidence.estimate is None:
        return []
    seed = None if odd.place is None else seeds[odd.place]
    return [UnlikeNormal(seed, odd.p, evidence.second.median, evidence.estimate.effect)]


def _notes(pairing: Pairing, evidence: Evidence) -> list[Note]:
    notes = conditions.notes(pairing)
    quality = any(pairing.metric in own.measured for own, _ in pairing.pairs)
    if quality and not evidence.identical and (constant := constant_difference(pairing)) is not None:
        notes.append(constant)
    return notes + pairing.gaps()


def interval_unit(runs: Runs, items: Sequence[Comparison]) -> IntervalUnit | None:
    """What the intervals of all comparisons are over; None without any."""
    judged = [item for item in items if item.interval]
    if not judged:
        return None
    splits = {split_of(item.metric) for item in judged}
    machines = {tuple(str(record.machine.get(name)) for name in KIND_OF_MACHINE) for record in runs.records}
    return IntervalUnit(
        split=splits.pop() if len(splits) == 1 else None,
        machines=len(machines) if any(record.machine for record in runs.records) else 0,
        level=judged[0].level if len({item.level for item in judged}) == 1 else None,
        comparisons=len(judged),
        together=sum(item.preliminary for item in judged),
        simultaneous=judged[0].intervals == "simultaneous",
    )
