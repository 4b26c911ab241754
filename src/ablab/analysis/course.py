"""How a study with `seed=auto` is likely to go: the seeds it takes, and the power that it has by each look.

By simulation of whole studies, variants beside one baseline: at each look a comparison is resolved by its t test at the
level of that look, or futile, or open. Holm's correction is left out, as if no other comparison were resolved, so that
power is rather too small than too large; so is equivalence, whose margin is in a unit that nobody knows yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize

from ablab.analysis.futility import FUTILE_BELOW, LookToCome, chance_of_decision, critical
from ablab.analysis.power import POWER

_STUDIES, _NUMBERS = 4000, 2**22  # that are simulated, and numbers that are drawn for them at most
_LARGEST = 64.0  # of effects, in standard deviations of a paired difference


@dataclass(frozen=True)
class Course:
    """How studies go on average."""

    resolved_by: tuple[float, ...]  # the share of comparisons that are resolved by each look
    seeds: float  # of a variant
    baseline_seeds: float  # which goes on as long as a variant does


def course(looks: Sequence[LookToCome], effect: float, variants: int = 1, futile: bool = True) -> Course:
    """Simulate studies in which all variants have the same effect.

    Args:
        effect: in standard deviations of a paired difference.
        variants: beside the baseline.
        futile: whether seeds end where a decision has become improbable.
    """
    most = looks[-1].seeds
    studies = min(_STUDIES, max(_NUMBERS // (most * (variants + 1)), 100))
    generator = np.random.RandomState(1)
    base = generator.standard_normal((studies, 1, most))
    differences = effect + (generator.standard_normal((studies, variants, most)) - base) / math.sqrt(2)
    bounds = _give_up(tuple(looks)) if futile else (0.0,) * len(looks)
    going, resolved = np.ones((studies, variants), bool), np.zeros((studies, variants), bool)
    seeds, of_baseline, by_look = 0.0, 0.0, []
    before = 0
    for look, give_up in zip(looks, bounds, strict=True):
        seeds += (look.seeds - before) * float(going.mean())
        of_baseline += (look.seeds - before) * float(going.any(axis=1).mean())
        part, before = differences[:, :, : look.seeds], look.seeds
        t = np.abs(part.mean(axis=2)) * math.sqrt(look.seeds) / part.std(axis=2, ddof=1)
        resolved |= going & (t > critical(look.seeds, look.level / 2))
        going &= ~resolved & (t >= give_up)
        by_look.append(float(resolved.mean()))
    return Course(tuple(by_look), seeds, of_baseline)


def detectable_at_last(looks: Sequence[LookToCome], futile: bool = True) -> float:
    """The effect that is resolved with probability `POWER` at one of the looks, in sd of a paired difference."""

    def lacking(effect: float) -> float:
        return course(looks, effect, futile=futile).resolved_by[-1] - POWER

    return float(optimize.brentq(lacking, 0.0, _LARGEST, xtol=0.01))


@lru_cache(maxsize=64)
def _give_up(looks: tuple[LookToCome, ...]) -> tuple[float, ...]:
    """The |t| below which each look finds that a decision has become improbable; at the last one all is over anyway."""
    return tuple(_least_hopeful(look.seeds, looks[place + 1 :]) for place, look in enumerate(looks))


def _least_hopeful(pairs: int, to_come: tuple[LookToCome, ...]) -> float:
    if not to_come:
        return 0.0
    low, high = 0.0, 16.0
    for _ in range(8):
        middle = (low + high) / 2
        hopeless = chance_of_decision(_with_t(pairs, middle), to_come) < FUTILE_BELOW
        low, high = (middle, high) if hopeless else (low, middle)
    return low


def _with_t(pairs: int, t: float) -> list[float]:
    """Differences that have this t statistic."""
    spread = np.linspace(-1, 1, pairs)
    return list(spread + t * spread.std(ddof=1) / math.sqrt(pairs))
