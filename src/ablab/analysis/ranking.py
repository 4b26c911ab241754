"""Which variants are resolved better than which others: every pair, not only those with the baseline.

Fronts of quality and cost ask of each variant whether it is better than every cheaper one, so that all pairs of a task
are compared, on the seeds that both have. They are a family of their own, over all tasks: any of its claims is false in
`LEVEL` of studies at most. With `FULL_SEEDS` seeds a pair has the paired t test and Holm's correction; with fewer, the
standard error that all pairs of the task share (`ablab.analysis.shared_error`), and its p is multiplied by the square
root of half their number, since here one noisy variant is in many pairs. `experiments/levels` measures how often any
claim of variants that are alike in truth is false.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ablab.analysis.comparison import Comparisons
from ablab.analysis.estimates import FEWEST_SEEDS, FULL_SEEDS, LEVEL, Estimate, FloatArray, paired
from ablab.analysis.family import COUNTED
from ablab.analysis.pairing import outcomes, variants
from ablab.analysis.step_down import PValues, step_down
from ablab.analysis.verdicts import Verdict
from ablab.results.collect import Runs
from ablab.results.record import Direction

Pair = tuple[str, str]  # (the better, the worse)


@dataclass(frozen=True)
class Ranking:
    """The pairs of variants whose order is resolved."""

    better: Mapping[str, frozenset[Pair]]  # by task
    level: float = LEVEL  # of all of them together


@dataclass(frozen=True)
class _Pair:
    task: str
    names: Pair  # in the order of their means
    estimate: Estimate
    counted: bool  # a cost that all seeds have alike: any difference is certain

    @property
    def variance(self) -> float:
        """Of one difference."""
        return self.estimate.sd**2

    def p(self, shared: float = 0.0) -> float:
        """Two-sided, not adjusted; where the variance of all is larger than its own, by that."""
        error = max(self.estimate.standard_error, math.sqrt(shared / self.estimate.pairs))
        if error == 0 and self.counted:
            return float(self.estimate.effect == 0)
        return replace(self.estimate, standard_error=error).p_value


def rank(runs: Runs, comparisons: Comparisons, directions: Mapping[str, Direction]) -> Ranking:
    """Compare all variants of each task on its compared metric, but for what diverged or is not comparable."""
    unstable = {(item.task, item.variant) for item in comparisons.items if item.verdict is Verdict.UNSTABLE}
    unranked = unstable | comparisons.apart
    pairs: list[_Pair] = []
    for task, metric in comparisons.metrics.items():
        ranked = [name for name in variants(runs) if (task, name) not in unranked]
        found = {name: outcomes(runs, task, name, metric, comparisons.last_k) for name in ranked}
        values = {name: {seed: each.value for seed, each in side.items()} for name, side in found.items() if side}
        pairs += pairs_of(task, values, directions[task], counted=metric in COUNTED)
    resolved = resolved_pairs(pairs, comparisons.level)
    better = {task: frozenset(pair.names for pair in resolved if pair.task == task) for task in comparisons.metrics}
    return Ranking(better, comparisons.level)


def pairs_of(
    task: str, values: Mapping[str, Mapping[int, float]], direction: Direction, counted: bool = False
) -> list[_Pair]:
    """Every pair with enough seeds.

    Args:
        counted: the values are costs that all seeds of a variant have alike.
    """
    names = list(values)
    seeds = sorted({seed for side in values.values() for seed in side})
    table = np.array([[values[name].get(seed, math.nan) for seed in seeds] for name in names])
    sign = 1 if direction == "min" else -1
    return [pair for place in range(len(names)) for pair in _of_one(task, names, sign * table, place, counted)]


def _of_one(task: str, names: Sequence[str], table: FloatArray, place: int, counted: bool) -> list[_Pair]:
    """Those of one variant with all that come after it. `table` is [variants, seeds], less is better."""
    found = []
    for other in range(place + 1, len(names)):
        apart = table[other] - table[place]
        apart = apart[np.isfinite(apart)]
        if len(apart) < FEWEST_SEEDS:
            continue
        estimate = paired(apart.tolist())
        ordered = (names[place], names[other]) if estimate.effect >= 0 else (names[other], names[place])
        found.append(_Pair(task, ordered, estimate, counted))
    return found


def resolved_pairs(pairs: Sequence[_Pair], level: float) -> list[_Pair]:
    """Those whose order is resolved at `level` of all together."""
    few: dict[str, list[_Pair]] = {}
    for pair in pairs:
        if pair.estimate.pairs < FULL_SEEDS:
            few.setdefault(pair.task, []).append(pair)
    full = [pair for pair in pairs if pair.estimate.pairs >= FULL_SEEDS]
    factors = {task: max(1.0, math.sqrt(len(found) / 2)) for task, found in few.items()}
    reserved = sum(factors.values())
    adjusted = step_down([PValues(pair.p()) for pair in full], [1.0] * len(full), reserved)
    resolved = [pair for pair, p in zip(full, adjusted, strict=True) if p.difference < level]
    for found in few.values():
        shared = sum(pair.variance for pair in found) / len(found)
        resolved += [pair for pair in found if pair.p(shared) * (reserved + len(full)) < level]
    return resolved
