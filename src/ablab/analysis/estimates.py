"""Effects with intervals: what paired seeds can say about a difference, and how surely.

An effect is the mean over seeds of (variant minus baseline), in the metric's own unit. With `FULL_SEEDS` pairs or more
it has the paired t interval. With fewer, a variance of its own is too poorly known, and comparisons share one
(`ablab.analysis.shared_error`). Below `FEWEST_SEEDS` there is no interval at all.

Sources: Student's paired t; Holm (1979), "A simple sequentially rejective multiple test procedure"; Schuirmann (1987)
for the two one-sided tests; Clopper and Pearson (1934); Fisher (1922).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

FEWEST_SEEDS = 3  # below: values only
FULL_SEEDS = 4  # from here on: an interval of the comparison's own
LEVEL = 0.05  # 95% intervals, and the rate of any false claim in a study that is looked at once

ROUNDING = 1e-11  # of differences, relative to their mean: what is less is no spread

Interval = tuple[float, float]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean paired difference and what it rests on."""

    effect: float  # in the metric's unit
    standard_error: float  # of the effect
    degrees: int  # degrees of freedom of the standard error
    pairs: int  # seeds with both values
    choice: float = 0.0  # what choosing settings by tuning adds to the standard error, as the other leg of a triangle

    @property
    def tied(self) -> bool:
        """Whether the differences show no spread, whatever choosing adds to it."""
        return self.standard_error <= self.choice

    @property
    def p_value(self) -> float:
        """Two-sided, not adjusted. Of ties it is no less than that of the sign test, since t knows no limit there.

        Metrics that are told in steps, as an accuracy is, tie by chance: that the signs agree is all that is known.
        """
        by_t = self._tail(abs(self.effect), sides=2)
        if not self.tied:
            return by_t
        return max(by_t, min(1.0, 2.0 ** (1 - self.pairs))) if self.effect else 1.0

    @property
    def sd(self) -> float:
        """The standard deviation of one paired difference that the standard error stands for."""
        return math.sqrt(max(0.0, self.standard_error**2 - self.choice**2) * self.pairs)

    def interval(self, confidence: float = 1 - LEVEL) -> Interval:
        """The t interval."""
        return self.around(self.critical(1 - confidence))

    def critical(self, level: float) -> float:
        """The |t| that is exceeded with probability `level` if there is no effect."""
        return -float(special.stdtrit(self.degrees, level / 2))

    def around(self, critical: float) -> Interval:
        """The effect plus and minus `critical` standard errors."""
        return self.effect - critical * self.standard_error, self.effect + critical * self.standard_error

    def equivalence_p(self, margin: float) -> float:
        """The p value of two one-sided tests that the effect is `margin` or more, not adjusted.

        It is below a level exactly where the interval at twice that level lies inside plus and minus `margin`. Of ties
        it is 1: those of a metric that is told in steps say nothing of how large an effect may be.
        """
        return 1.0 if self.tied else self._tail(margin - abs(self.effect), sides=1)

    def _tail(self, distance: float, sides: int) -> float:
        """The probability that chance leads as far; 0 where there is no error at all."""
        if self.standard_error == 0:
            return 0.0
        return float(sides * special.stdtr(self.degrees, -distance / self.standard_error))


def paired(differences: Sequence[float], choice: float = 0.0) -> Estimate:
    """The estimate from two or more paired differences alone. Raises ValueError for fewer.

    Args:
        choice: the standard error that choosing settings by tuning adds (`ablab.analysis.choice_noise`).
    """
    if len(differences) < 2:
        raise ValueError(f"a paired estimate needs 2 differences, got {len(differences)}")
    error = math.sqrt(variance_of(differences)) / math.sqrt(len(differences))
    mean = float(np.mean(differences))
    return Estimate(mean, math.hypot(error, choice), len(differences) - 1, len(differences), choice)


def variance_of(differences: Sequence[float] | FloatArray) -> float:
    """The variance of two or more paired differences; 0 where their spread is no more than rounding."""
    variance = float(np.var(differences, ddof=1))
    return variance if math.sqrt(variance) > ROUNDING * abs(float(np.mean(differences))) else 0.0


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's, over seeds: what pairing has earned. None for fewer than three pairs or values without spread."""
    if len(first) < FEWEST_SEEDS or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.clip(np.corrcoef(first, second)[0, 1], -1, 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for their number, in the order given (step-down, Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def rate_bound(events: int, trials: int) -> float:
    """The largest true rate that `events` of `trials` leaves possible: Clopper-Pearson, one-sided, 95%."""
    if trials == 0 or events == trials:
        return 1.0
    return float(stats.beta.ppf(1 - LEVEL, events + 1, trials - events))


def fisher(events: int, trials: int, other_events: int, other_trials: int) -> float:
    """The two-sided p value of Fisher's exact test that two rates are the same."""
    table = np.array([[events, trials - events], [other_events, other_trials - other_events]])
    return float(stats.fisher_exact(table).pvalue)
