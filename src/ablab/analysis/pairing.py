"""Who is compared with whom: the baseline variant, and each variant's runs beside the baseline's, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ablab.analysis.notes import BaselineSeed, EndedAtLook, Note, NoValue, RepeatedSeed, RunNote, SeedNote, SeedNotRun
from ablab.results.collect import Runs
from ablab.results.evaluation import AT
from ablab.results.record import Record


@dataclass(frozen=True)
class Outcome:
    """One run as a pair sees it: `value` is NaN unless the run is ok and has a finite value of the metric."""

    record: Record
    path: str
    value: float
    repeats: int = 0  # further finished runs of the same variant, task and seed, which do not count
    last_k: int = 1  # evaluations that `value` is the mean of

    @property
    def complete(self) -> bool:
        return math.isfinite(self.value)

    def why(self, metric: str) -> NoValue:
        """Why it has no value of `metric`."""
        record = self.record
        return NoValue(
            seed=record.seed,
            status=record.status,
            reason=record.reason,
            metric=metric,
            evaluations=len(record.last.get(metric, ())),
            last_k=self.last_k,
            evaluated=metric.partition(AT)[2] in {"", *record.evaluations},
        )


@dataclass(frozen=True)
class Pairing:
    """A variant's outcomes and its baseline's on one task, by seed."""

    variant: str
    baseline: str
    task: str
    metric: str
    of_variant: dict[int, Outcome]
    of_baseline: dict[int, Outcome]
    ended_at_look: EndedAtLook | None = None
    in_steps: bool = False  # each variant is the next one's baseline

    def at_its_look(self, looks: Sequence[Collection[int]]) -> Pairing:
        """The pairing up to the look with which the variant's seeds ended, where the baseline's went on without it.

        In steps a variant may have gone on for the next one, without its own baseline.

        Args:
            looks: the seeds of each interim analysis.
        """
        own, base = set(self.of_variant), set(self.of_baseline)
        if _ended_at(looks, own, base):
            return replace(self, of_baseline=_of(self.of_baseline, own), ended_at_look=EndedAtLook(len(own), len(base)))
        if self.in_steps and _ended_at(looks, base, own):
            ended = EndedAtLook(len(base), len(own), of_baseline=True)
            return replace(self, of_variant=_of(self.of_variant, base), ended_at_look=ended)
        return self

    @cached_property
    def planned(self) -> list[int]:
        """Every seed that either of the two was given."""
        return sorted({*self.of_variant, *self.of_baseline})

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that both have a value for."""
        return [
            seed
            for seed in self.planned
            if all(seed in side and side[seed].complete for side in (self.of_variant, self.of_baseline))
        ]

    @cached_property
    def values(self) -> list[float]:
        return [self.of_variant[seed].value for seed in self.seeds]

    @cached_property
    def baseline_values(self) -> list[float]:
        return [self.of_baseline[seed].value for seed in self.seeds]

    @cached_property
    def differences(self) -> list[float]:
        """Variant minus baseline, one per complete pair, in the metric's unit."""
        return [value - other for value, other in zip(self.values, self.baseline_values, strict=True)]

    @property
    def pairs(self) -> list[tuple[Record, Record]]:
        """The records of the complete pairs, (variant, baseline)."""
        return [(self.of_variant[seed].record, self.of_baseline[seed].record) for seed in self.seeds]

    def gaps(self) -> list[Note]:
        """Each seed of the variant without a value, and each seed that only one of the two was given."""
        unpaired = (
            SeedNotRun(seed, by_baseline=side is self.of_baseline)
            for side in (self.of_variant, self.of_baseline)
            for seed in self.planned
            if seed not in side
        )
        ended = [self.ended_at_look] if self.ended_at_look else []
        base = seed_notes(self.of_baseline, self.metric) if self.in_steps else []  # of one of all it is said once
        return [*ended, *seed_notes(self.of_variant, self.metric), *map(BaselineSeed, base), *unpaired]


def _ended_at(looks: Sequence[Collection[int]], own: set[int], other: set[int]) -> bool:
    """Whether the seeds of one side ended with a look, and the other's went on."""
    return bool(own) and not own >= other and any(own == (own | other) & set(look) for look in looks)


def _of(side: dict[int, Outcome], seeds: Collection[int]) -> dict[int, Outcome]:
    return {seed: outcome for seed, outcome in side.items() if seed in seeds}


def seed_notes(side: dict[int, Outcome], metric: str) -> list[SeedNote]:
    """Each seed that has no value, that was finished more than once, or whose run has a note of its own."""
    found: list[SeedNote] = []
    for seed, outcome in side.items():
        if not outcome.complete:
            found.append(outcome.why(metric))
        if outcome.repeats:
            found.append(RepeatedSeed(seed, outcome.repeats + 1))
        found += [RunNote(seed, text) for text in outcome.record.notes]
    return found


def outcomes(runs: Runs, task: str, variant: str, metric: str, last_k: int = 1) -> dict[int, Outcome]:
    """The outcome that counts for each seed of `variant` on `task`: its final value, or the mean of its last `last_k`.

    Where a seed was run more than once, the first run that came to an end of its own (ok or diverged) counts: a run
    that was killed is run again, but running until a result pleases must not help.
    """
    by_seed: dict[int, list[tuple[Record, str]]] = {}
    for place in runs.places.get((task, variant), ()):
        record = runs.records[place]
        by_seed.setdefault(record.seed, []).append((record, runs.paths[place]))
    chosen = {}
    for seed, found in sorted(by_seed.items()):
        ended = [item for item in found if item[0].status in ("ok", "diverged")]
        record, path = min(ended, key=lambda item: item[0].finished_at or "") if ended else found[-1]
        value = value_of(record, metric, last_k) if record.status == "ok" else math.nan
        chosen[seed] = Outcome(record, path, value, repeats=max(len(ended) - 1, 0), last_k=last_k)
    return chosen


def counting(runs: Runs, task: str, variant: str) -> list[Record]:
    """The run of each seed of `variant` on `task` that counts, as `outcomes` has it, of those that ended well."""
    found = (outcome.record for outcome in outcomes(runs, task, variant, "").values())
    return [record for record in found if record.status == "ok"]


def value_of(record: Record, metric: str, last_k: int = 1) -> float:
    """The record's `metric`, mechanism metric or cost of that name; NaN where it has none.

    Args:
        last_k: more than 1 for the mean of so many last evaluations; NaN where the run was evaluated less often.
    """
    if last_k > 1:
        evaluations = record.last.get(metric, [])[-last_k:]
        return math.fsum(evaluations) / last_k if len(evaluations) == last_k else math.nan
    for place in (record.measured, record.mechanism, vars(record.cost)):
        value = place.get(metric)
        if isinstance(value, int | float):
            return float(value)
    return math.nan


def variants(runs: Runs) -> list[str]:
    """The variants in the order of the plan."""
    return runs.variants


def tasks(runs: Runs) -> list[str]:
    """The tasks in the order of the plan."""
    return runs.tasks


def choices(runs: Runs, variant: str) -> dict[str, str]:
    """factor -> option or value of `variant`, "" where it has no such setting."""
    return runs.choices[variant]


def label(runs: Runs, variant: str, baseline: str) -> str:
    """`variant` by what sets it apart from `baseline`: the option alone if one axis differs, else "name=value,...".

    A variant that its study has given a name is known by that.
    """
    if "=" not in variant and runs.factors:
        return variant
    differing = _apart(runs, variant, baseline)
    if len(differing) == 1:
        ((name, value),) = differing.items()
        elsewhere = any(value in options for factor, options in runs.options.items() if factor != name)
        if (name in runs.records[0].axes or "@" in name) and not elsewhere:
            return value
    return ",".join(f"{name}={value}" for name, value in differing.items()) or variant


def short_name(runs: Runs, variant: str, baseline: str) -> str:
    """`variant` without what it has in common with `baseline`: "attention=lsh" of "activation=relu,attention=lsh"."""
    if "=" not in variant or variant == baseline or baseline not in runs.choices:
        return variant
    return ",".join(f"{name}={value}" for name, value in _apart(runs, variant, baseline).items()) or variant


def _apart(runs: Runs, variant: str, baseline: str) -> dict[str, str]:
    """The factors in which it differs from the baseline, with its values."""
    own, other = choices(runs, variant), choices(runs, baseline)
    return {name: value for name, value in own.items() if value != other[name] and value}
