"""Futility: how probable it is that further seeds decide a comparison, by the seeds that there are.

The *predictive* probability (Spiegelhalter, Freedman and Blackburn 1986): further differences are drawn around the
trend that was observed, with what is not known of it and of their spread, since a handful of pairs says little about
either (a flat prior on the effect and on the logarithm of the standard deviation). Conditional power takes both for
known, and gives up too early.

The draws are the same at every call, so that the same records give the same decision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from ablab.analysis.estimates import FloatArray, variance_of

FUTILE_BELOW = 0.1
_STUDIES = 2000  # that are drawn: the probability is known within a hundredth


@dataclass(frozen=True)
class LookToCome:
    """A look that may decide, and what it asks for."""

    seeds: int
    level: float  # of the two-sided t test of no effect
    equivalence_level: float = 0.0  # of the two one-sided tests against the margin


def chance_of_decision(
    differences: Sequence[float], looks: Sequence[LookToCome], margin: float | None = None, choice: float = 0.0
) -> float:
    """Return the probability that one of the looks to come finds an effect, or equivalence within a margin.

    Args:
        differences: of the pairs there are, two or more.
        looks: at more seeds than these, in order.
        margin: None where equivalence decides nothing.
        choice: the standard error that tuning adds, which further seeds leave as it is.
    """
    known = np.asarray(differences, dtype=float)
    pairs, mean, sd = len(known), float(known.mean()), math.sqrt(variance_of(known))
    if sd == 0:
        return float(mean != 0 or margin is not None)
    means, spreads, further = _draws(pairs, looks[-1].seeds - pairs)
    spread = sd * spreads[:, None]
    later = mean + spread * (means[:, None] / math.sqrt(pairs) + further)
    sums = known.sum() + later.cumsum(1)
    squares = (known**2).sum() + (later**2).cumsum(1)
    decided = np.zeros(len(later), bool)
    for look in looks:
        at = look.seeds - pairs - 1
        center = sums[:, at] / look.seeds
        error = np.sqrt(np.maximum(squares[:, at] / look.seeds - center**2, 0) / (look.seeds - 1) + choice**2)
        decided |= np.abs(center) > critical(look.seeds, look.level / 2) * error
        if margin is not None and look.equivalence_level > 0:
            decided |= np.abs(center) + critical(look.seeds, look.equivalence_level) * error < margin
    return float(decided.mean())


def critical(seeds: int, level: float) -> float:
    """The t that so many pairs exceed with the probability `level`, on one side; infinity for none."""
    return float(special.stdtrit(seeds - 1, 1 - level)) if level > 0 else math.inf


@lru_cache(maxsize=16)
def _draws(pairs: int, further: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Standard deviates: of the effect, of the standard deviation in observed ones, and of further differences.

    By a generator whose numbers are the same in every version of numpy.
    """
    generator = np.random.RandomState(0)
    means, spread = generator.standard_normal(_STUDIES), generator.chisquare(pairs - 1, _STUDIES)
    return means, np.sqrt((pairs - 1) / spread), generator.standard_normal((_STUDIES, further))
