"""Placebos: arms that cannot matter, each compared with the variant whose settings it has.

They say what differences come of nothing, so no question is answered by them, and they are in no family of a study's
claims: a claim about a placebo would be false whatever it said, and correcting for it would take power from those that
are asked about. Each is judged by itself at the study's level, so that about that share of them comes out resolved.
Nor are they pooled with variants, whose spread they would make look smaller where a swap makes runs less alike.

The largest mean difference of the placebos on a task is the *floor* there: an effect no larger is not told from
nothing, whatever its p value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from scipy import stats

from ablab.analysis.conclusions import conclude
from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL, Interval
from ablab.analysis.evidence import evidence_of
from ablab.analysis.looks import Looks
from ablab.analysis.pairing import Pairing, outcomes
from ablab.analysis.study_notes import PlaceboFloor, PlaceboShare
from ablab.analysis.suite import join
from ablab.analysis.verdicts import RESOLVED, Comparison, Evidence, judge
from ablab.results.collect import Runs
from ablab.results.record import Direction


@dataclass(frozen=True)
class Placebo:
    """One placebo against the variant whose settings it has, on a task or on the suite."""

    kind: str  # as `ablab.config.placebo` has them
    comparison: Comparison

    @property
    def counts(self) -> bool:
        """Whether there are seeds enough for a verdict."""
        return len(self.comparison.differences) >= FEWEST_SEEDS

    @property
    def resolved(self) -> bool:
        return self.comparison.verdict in RESOLVED

    @property
    def equal(self) -> bool:
        """Whether the two are equal to the last bit on every seed."""
        return bool(self.comparison.differences) and not any(self.comparison.differences)


@dataclass(frozen=True)
class Placebos:
    """Those of a study."""

    items: tuple[Placebo, ...] = ()  # on tasks
    suite: tuple[Placebo, ...] = ()

    def of(self, part: str) -> list[Placebo]:
        """Those on a task, or on the suite."""
        return [item for item in (*self.suite, *self.items) if item.comparison.task == part]

    def floor(self, part: str) -> float | None:
        """The largest mean difference on a task or the suite; None without placebos there."""
        return max((abs(p.comparison.effect) for p in self.of(part) if p.comparison.effect is not None), default=None)

    def held_against(self, items: Iterable[Comparison]) -> tuple[Comparison, ...]:
        """Comparisons, with no claim of those whose effect is no larger than the floor."""
        return tuple(map(self._held, items))

    def _held(self, item: Comparison) -> Comparison:
        floor = self.floor(item.task)
        if floor is None:
            return item
        held = replace(item, floor=floor)
        return replace(held, verdict=judge(held))

    def on(self, tasks: Sequence[str]) -> Placebos:
        """Those on some tasks alone."""
        return Placebos(tuple(item for item in self.items if item.comparison.task in tasks), self.suite)

    def notes(self) -> list[PlaceboFloor | PlaceboShare]:
        """The floor of each task and of the suite, and how many placebos came out resolved."""
        parts = dict.fromkeys(item.comparison.task for item in (*self.suite, *self.items))
        found: list[PlaceboFloor | PlaceboShare] = [
            PlaceboFloor(part if len(parts) > 1 else "", self.of(part)[0].comparison.metric, floor)
            for part in parts
            if (floor := self.floor(part)) is not None
        ]
        counted = [item for item in self.items if item.counts]
        if counted:
            resolved, equal = sum(item.resolved for item in counted), sum(item.equal for item in counted)
            interval = share_interval(resolved, len(counted))
            found.append(PlaceboShare(resolved, len(counted), equal, interval, counted[0].comparison.level))
        return found


def share_interval(found: int, of: int) -> Interval:
    """The exact binomial interval of a share (Clopper and Pearson 1934)."""
    low, high = stats.binomtest(found, of).proportion_ci(1 - LEVEL, method="exact")
    return float(low), float(high)


def pairs_of(
    runs: Runs, task: str, metric: str, direction: Direction, last_k: int, looks: Looks
) -> Iterator[tuple[Pairing, Evidence]]:
    """Each placebo on a task, paired with the runs of the variant whose settings it has."""
    every = runs.every
    originals = {tuple(choices.values()): variant for variant, choices in runs.choices.items()}
    for (of, variant), places in every.places.items():
        kind = every.records[places[0]].placebo
        original = originals.get(tuple(every.choices[variant].values()))
        if of != task or not kind or original is None or (task, original) not in runs.places:
            continue
        own = outcomes(every, task, variant, metric, last_k)
        pairing = Pairing(variant, original, task, metric, own, outcomes(runs, task, original, metric, last_k))
        evidence = evidence_of(every, pairing, direction, None, looks)
        # The guard against options without effect is not for arms that are to have none: what they differ by is shown.
        equal = bool(evidence.differences) and not any(evidence.differences)
        yield pairing, replace(evidence, label=f"placebo {kind}", identical=equal, unchanged=())


def compare_placebos(runs: Runs, parts: Sequence[tuple[Pairing, Evidence]], suite_of: Sequence[str]) -> Placebos:
    """Judge placebos, each by itself.

    Args:
        parts: all pairs on single tasks.
        suite_of: the tasks of the suite; none without one.
    """
    kinds = {variant: runs.every.records[places[0]].placebo for (_, variant), places in runs.every.places.items()}
    alone = chain.from_iterable(conclude([], [part])[1] for part in parts)
    joined = chain.from_iterable(conclude([each], [])[0] for each in (join(parts, suite_of) if suite_of else []))
    made = [tuple(Placebo(kinds[item.variant], item) for item in found) for found in (alone, joined)]
    return Placebos(*made)
