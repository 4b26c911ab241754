"""Evaluations of finished runs elsewhere, side by side: over the length of sequences, and by their names.

Values are of the primary metric of what was evaluated. Each point is a mean over seeds with the t interval of that
mean, by itself: what is concluded from is the paired comparison of one metric, as of `val_loss@task.seq_len=1024`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL, Interval, paired
from ablab.analysis.pairing import outcomes, variants
from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.results.collect import Runs
from ablab.results.evaluation import AT, Evaluation
from ablab.results.record import Record

_LENGTH = "task.seq_len="


@dataclass(frozen=True)
class Point:
    """The value of a variant at one evaluation."""

    values: tuple[float, ...]  # one for each seed that has it
    interval: Interval | None  # of the mean; None below FEWEST_SEEDS

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @classmethod
    def of(cls, values: Iterable[float]) -> Point | None:
        """None where there is no finite value."""
        known = tuple(value for value in values if math.isfinite(value))
        if not known:
            return None
        return cls(known, paired(known).interval(1 - LEVEL) if len(known) >= FEWEST_SEEDS else None)


@dataclass(frozen=True)
class Elsewhere:
    """Evaluations that differ in nothing but the length of sequences, or that have none in common.

    Attributes:
        shared: what their names have in common, "task=text,task.path=b.txt"; "" for the task of the runs themselves.
        metric: the primary one.
        names: of the evaluations, in the order of the lengths.
        lengths: of each; empty where the evaluations differ in something else.
        trained: lengths that the runs were trained on.
        points: variant -> a point for each of the names; None where none of its runs was evaluated there.
    """

    shared: str
    metric: str
    names: tuple[str, ...]
    lengths: tuple[int, ...]
    trained: tuple[int, ...]
    points: dict[str, tuple[Point | None, ...]]


def elsewhere(runs: Runs, task: str) -> list[Elsewhere]:
    """The evaluations of the runs on `task`, those over lengths first; empty where there are none."""
    found: dict[str, Evaluation] = {}
    for record in _records(runs, task):
        found |= record.evaluations
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    for evaluation in found.values():
        groups.setdefault((_shared(evaluation.name), evaluation.primary.name), []).append(evaluation)
    over = {key: each for key, each in groups.items() if len(each) > 1}
    rest = [each for key, group in groups.items() if key not in over for each in group]
    made = [_side_by_side(runs, task, shared, metric, group) for (shared, metric), group in over.items()]
    for metric in dict.fromkeys(each.primary.name for each in rest):
        made.append(_side_by_side(runs, task, "", metric, [each for each in rest if each.primary.name == metric]))
    return made


def _shared(name: str) -> str:
    """The name without the length. One that says none is a group by itself."""
    words = BETWEEN_OVERRIDES.split(name)
    rest = [word for word in words if not word.startswith(_LENGTH)]
    return ",".join(rest) if len(rest) < len(words) else name


def _side_by_side(runs: Runs, task: str, shared: str, metric: str, found: list[Evaluation]) -> Elsewhere:
    over = all(_LENGTH in each.name and each.length for each in found) and len(found) > 1
    ordered = sorted(found, key=lambda each: (each.length or 0, each.name)) if over else found
    points = {}
    for variant in variants(runs):
        of_variant = [
            Point.of(each.value for each in outcomes(runs, task, variant, f"{metric}{AT}{evaluation.name}").values())
            for evaluation in ordered
        ]
        if any(of_variant):
            points[variant] = tuple(of_variant)
    return Elsewhere(
        shared=shared,
        metric=metric,
        names=tuple(each.name for each in ordered),
        lengths=tuple(each.length or 0 for each in ordered) if over else (),
        trained=_trained(runs, task),
        points=points,
    )


def _trained(runs: Runs, task: str) -> tuple[int, ...]:
    settings = [record.config.get("task") for record in _records(runs, task)]
    lengths = {each.get("seq_len") for each in settings if isinstance(each, dict)}
    return tuple(sorted(length for length in lengths if type(length) is int))


def _records(runs: Runs, task: str) -> list[Record]:
    return [runs.records[place] for (of, _), places in runs.places.items() if of == task for place in places]
