"""One verdict on a fixed suite of tasks: what a variant does to their average.

Per seed the differences (variant minus baseline) are averaged over the tasks, and the interval is that of one task's
differences: over seeds. The tasks are fixed, so that it speaks of these tasks and of no others. A seed counts where
every task has a complete pair, since an average over fewer tasks is that of another suite.

Comparisons on the suite and on single tasks are one family, in which the suite holds half of the level
(`ablab.analysis.family`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from statistics import fmean

from ablab.analysis import conditions
from ablab.analysis.choice_noise import joint
from ablab.analysis.estimates import correlation
from ablab.analysis.family import Claim
from ablab.analysis.notes import IncompleteSeed, Note, TaskNotRun
from ablab.analysis.pairing import Outcome, Pairing
from ablab.analysis.study_notes import NoSuite
from ablab.analysis.tuned import tunings_behind
from ablab.analysis.verdicts import Evidence
from ablab.results.record import Direction


def suite_name(tasks: int) -> str:
    return f"suite of {tasks} tasks"


def obstacle(
    metrics: Mapping[str, str], directions: Mapping[str, Direction], without_baseline: Sequence[str]
) -> NoSuite | None:
    """Why the tasks make no suite; None if they do.

    Args:
        metrics: task -> the metric that is compared, "" if none is known.
        directions: task -> in which direction it is good.
        without_baseline: tasks on which the baseline was not run.
    """
    if len(metrics) < 2:
        return NoSuite("one task")
    if unknown := [task for task, metric in metrics.items() if not metric]:
        return NoSuite("no metric", tuple(unknown))
    if len(set(metrics.values())) > 1:
        return NoSuite("different metrics", tuple(metrics), tuple(metrics.values()))
    if len(set(directions.values())) > 1:
        return NoSuite("mixed directions")
    if without_baseline:
        return NoSuite("no baseline", tuple(without_baseline))
    return None


def averages(sides: Sequence[Mapping[int, Outcome]]) -> dict[int, float]:
    """Seed -> the average over the tasks of one variant's outcomes, NaN unless every task has a value."""
    seeds = sorted({seed for side in sides for seed in side})
    return {seed: fmean(side[seed].value if seed in side else math.nan for side in sides) for seed in seeds}


@dataclass(frozen=True)
class Joined:
    """A variant's comparisons with the baseline on the tasks of a suite."""

    tasks: tuple[str, ...]  # of the suite
    parts: tuple[tuple[Pairing, Evidence], ...]  # in that order, as far as the variant was run on them

    @property
    def variant(self) -> str:
        return self.parts[0][0].variant

    @property
    def baseline(self) -> str:
        return self.parts[0][0].baseline

    @property
    def missing(self) -> list[str]:
        """Tasks that the variant was not run on."""
        return [task for task in self.tasks if task not in {pairing.task for pairing, _ in self.parts}]

    @cached_property
    def planned(self) -> list[int]:
        planned = {seed for pairing, _ in self.parts for seed in pairing.planned}
        return sorted(planned.intersection(*(pairing.planned for pairing, _ in self.parts if pairing.ended_at_look)))

    @cached_property
    def seeds(self) -> list[int]:
        """Those that count."""
        if self.missing:
            return []
        return [seed for seed in self.planned if all(seed in pairing.seeds for pairing, _ in self.parts)]

    @cached_property
    def claim(self) -> Claim:
        pairings = [] if self.missing else [pairing for pairing, _ in self.parts]
        own = averages([pairing.of_variant for pairing in pairings])
        base = averages([pairing.of_baseline for pairing in pairings])
        return Claim(suite_name(len(self.tasks)), self._evidence(own, base), own, base, on_suite=True)

    def notes(self) -> list[Note]:
        """Unequal conditions over all tasks, and what is missing."""
        pairs = [pair for pairing, _ in self.parts for pair in pairing.pairs]
        ended = [pairing.ended_at_look for pairing, _ in self.parts if pairing.ended_at_look]
        notes: list[Note] = [
            *sorted(ended, key=lambda note: note.seeds)[:1],
            *conditions.unequal(pairs, self.parts[0][0].metric),
            *map(TaskNotRun, self.missing),
        ]
        for seed in self.planned:
            if lacking := tuple(pairing.task for pairing, _ in self.parts if seed not in pairing.seeds):
                notes.append(IncompleteSeed(seed, lacking))
        return notes

    def _evidence(self, own: Mapping[int, float], base: Mapping[int, float]) -> Evidence:
        each = [evidence for _, evidence in self.parts]
        first = each[0]
        blocked = next((replace(e.blocked, task=p.task) for p, e in self.parts if e.blocked), None)
        seeds = [] if blocked else self.seeds
        identical = not self.missing and all(evidence.identical for evidence in each)
        looks = min((evidence.looks for evidence in each), key=lambda looks: looks.now)  # where every task had seeds
        looks = looks.until(self.seeds)
        return Evidence(
            label=first.label,
            overrides=first.overrides,
            metric=first.metric,
            direction=first.direction,
            planned=len(self.planned),
            differences=tuple(own[seed] - base[seed] for seed in seeds),
            ended=sum(evidence.ended for evidence in each),
            diverged=sum(evidence.diverged for evidence in each),
            baseline_ended=sum(evidence.baseline_ended for evidence in each),
            baseline_diverged=sum(evidence.baseline_diverged for evidence in each),
            correlation=correlation([own[seed] for seed in seeds], [base[seed] for seed in seeds]),
            margin=first.margin,
            margin_declared=first.margin_declared,
            looks=looks,
            level=looks.level(),
            intervals=first.intervals,
            identical=identical,
            unchanged=tuple(dict.fromkeys(axis for evidence in each for axis in evidence.unchanged))
            if identical
            else (),
            blocked=blocked,
            choice=self._choice(),
        )

    def _choice(self) -> float | None:
        """What choosing adds to the average over tasks; None where nothing was tuned."""
        choices = [evidence.choice for _, evidence in self.parts]
        tunings = [tunings_behind(chain.from_iterable(pairing.pairs)) for pairing, _ in self.parts]
        if all(choice is None for choice in choices):
            return None
        return math.sqrt(float(joint(choices, tunings).sum())) / len(choices)


def join(parts: Sequence[tuple[Pairing, Evidence]], tasks: Sequence[str]) -> list[Joined]:
    """The comparisons of each variant together, in the order of the variants."""
    found: dict[str, list[tuple[Pairing, Evidence]]] = {}
    for pairing, evidence in parts:
        found.setdefault(pairing.variant, []).append((pairing, evidence))
    return [Joined(tuple(tasks), tuple(each)) for each in found.values()]
