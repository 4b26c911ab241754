"""How studies with `seed=auto` go: who is resolved at which look, and how many seeds that takes. By simulation.

Whole studies, looked at as real ones are, many at a time: at each look the t test of every variant that still gets
seeds, at the level of that look; Holm's correction of all of them together, in which earlier looks count as they did
then; and futility. Variants have the paired t at every look, as planned looks are of that. Equivalence is left out: its
margin is in a unit that nobody knows before the first run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from ablab.analysis.decisions import looks_at
from ablab.analysis.estimates import LEVEL, FloatArray
from ablab.analysis.futility import FUTILE_BELOW, LookToCome, chance_of_decision
from ablab.analysis.power import POWER
from ablab.config.seeds import FUTILE, RESOLVED, SeedsConfig

_STUDIES, _NUMBERS = 4000, 2**22  # that are simulated, and numbers that are drawn for them at most
_LARGEST = 64.0  # of effects, in standard deviations of a paired difference
_HIGHEST = 16.0  # |t| at which nobody gives up


@dataclass(frozen=True)
class Course:
    """How some studies went."""

    resolved_at: NDArray[np.int64]  # [studies, variants] the look, as its place; as many as there are looks: none
    seeds: NDArray[np.int64]  # [studies, variants]

    def resolved_by(self, look: int) -> float:
        """The share of comparisons that are resolved by a look."""
        return float((self.resolved_at <= look).mean())

    @property
    def runs(self) -> float:
        """Of a study on average; the baseline goes on as long as a variant does."""
        return float(self.seeds.sum(axis=1).mean() + self.seeds.max(axis=1).mean())


def course_of(differences: FloatArray, seeds: SeedsConfig, family: int | None = None) -> Course:
    """Let studies go their way.

    Args:
        differences: [studies, variants, seeds] variant minus baseline, of all seeds that there may be.
        family: comparisons that share the level; default: one for each variant.
    """
    studies, variants, _ = differences.shape
    family = variants if family is None else family
    looks = seeds.every_look
    p_values = np.ones((studies, variants, len(looks)))
    resolved_at = np.full((studies, variants), len(looks))
    made = np.zeros((studies, variants), np.int64)
    going = np.ones((studies, variants), bool)
    for place, look in enumerate(looks):
        made[going] = look
        t, p = _tested(differences[:, :, :look])
        p_values[:, :, place] = np.where(going, p, 1.0)
        rejected = _rejected(p_values[:, :, : place + 1], seeds, family)
        resolved_at = np.where(rejected, np.minimum(resolved_at, place), resolved_at)
        if RESOLVED in seeds.stop:
            going = going & ~rejected
        if FUTILE in seeds.stop:
            bounds = np.array([_give_up(seeds, family - gone)[place] for gone in range(variants + 1)])
            going = going & (rejected | (t >= bounds[np.minimum(rejected.sum(axis=1), family - 1)][:, None]))
    return Course(resolved_at, made)


def course(seeds: SeedsConfig, effect: float, variants: int = 1, family: int | None = None) -> Course:
    """Simulate studies in which all variants have the same effect.

    Args:
        effect: in standard deviations of a paired difference.
        variants: beside the baseline.
        family: as `course_of` takes it.
    """
    most = seeds.max
    studies = min(_STUDIES, max(_NUMBERS // (most * (variants + 1)), 100))
    generator = np.random.RandomState(1)
    base = generator.standard_normal((studies, 1, most))
    differences = effect + (generator.standard_normal((studies, variants, most)) - base) / math.sqrt(2)
    return course_of(differences, seeds, family)


def detectable_at_last(seeds: SeedsConfig, family: int) -> float:
    """The effect that is resolved with probability `POWER` where no other is, in sd of a paired difference."""

    def lacking(effect: float) -> float:
        return course(seeds, effect, family=family).resolved_by(len(seeds.every_look) - 1) - POWER

    return float(optimize.brentq(lacking, 0.0, _LARGEST, xtol=0.01))


def _tested(differences: FloatArray) -> tuple[FloatArray, FloatArray]:
    """|t| over the seeds, and its p value."""
    pairs = differences.shape[2]
    t = np.abs(differences.mean(axis=2)) * math.sqrt(pairs) / differences.std(axis=2, ddof=1)
    return t, 2 * special.stdtr(pairs - 1, -t)


def _rejected(p_values: FloatArray, seeds: SeedsConfig, family: int) -> NDArray[np.bool_]:
    """[studies, variants] what is resolved by the p values of the looks so far, [studies, variants, looks], by Holm."""
    studies, variants, looks = p_values.shape
    rejected = np.zeros((studies, variants), bool)
    levels = np.array([_levels(seeds, family - gone)[:looks] for gone in range(min(variants, family))])
    for _ in range(variants):
        gone = np.minimum(rejected.sum(axis=1), len(levels) - 1)
        new = (p_values < levels[gone][:, None, :]).any(axis=2)
        if (new == rejected).all():
            break
        rejected = new | rejected
    return rejected


def _levels(seeds: SeedsConfig, sharing: int) -> list[float]:
    return [look.level for look in _looks(seeds, sharing)]


def _looks(seeds: SeedsConfig, sharing: int) -> tuple[LookToCome, ...]:
    return _looks_of(tuple(seeds.looks), seeds.max, seeds.spending, max(sharing, 1))


@lru_cache(maxsize=256)
def _looks_of(looks: tuple[int, ...], most: int, spending: str, sharing: int) -> tuple[LookToCome, ...]:
    return tuple(looks_at(SeedsConfig(looks=list(looks), max=most, spending=spending), LEVEL / sharing))


def _give_up(seeds: SeedsConfig, sharing: int) -> tuple[float, ...]:
    """The |t| below which each look finds that a decision has become improbable; at the last one all is over anyway."""
    return _least_hopeful(_looks(seeds, sharing))


@lru_cache(maxsize=256)
def _least_hopeful(looks: tuple[LookToCome, ...]) -> tuple[float, ...]:
    return tuple(_bound(look.seeds, looks[place + 1 :]) for place, look in enumerate(looks))


def _bound(pairs: int, to_come: Sequence[LookToCome]) -> float:
    low, high = 0.0, _HIGHEST
    for _ in range(12 if to_come else 0):
        middle = (low + high) / 2
        hopeless = chance_of_decision(_with_t(pairs, middle), to_come) < FUTILE_BELOW
        low, high = (middle, high) if hopeless else (low, middle)
    return low


def _with_t(pairs: int, t: float) -> list[float]:
    """Differences that have this t statistic."""
    spread = np.linspace(-1, 1, pairs)
    return list(spread + t * spread.std(ddof=1) / math.sqrt(pairs))
