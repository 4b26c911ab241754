"""The kinds of verdict, and what decides between them.

Nothing is called equivalent unless a margin was declared beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ablab.analysis.estimates import FEWEST_SEEDS, FULL_SEEDS, LEVEL, Estimate, Interval
from ablab.analysis.study_notes import OtherCorpus
from ablab.results.record import Direction


class Verdict(StrEnum):
    BETTER = "BETTER"
    WORSE = "WORSE"
    UNRESOLVED = "UNRESOLVED"
    EQUIVALENT = "EQUIVALENT"
    UNSTABLE = "UNSTABLE"
    TOO_FEW_SEEDS = "TOO FEW SEEDS"
    NO_PAIRS = "NO PAIRS"
    NO_EFFECT = "NO EFFECT ON THE MODEL"
    NOT_COMPARABLE = "NOT COMPARABLE"


RESOLVED = frozenset({Verdict.BETTER, Verdict.WORSE})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a verdict on one variant rests on."""

    label: str  # the variant by what sets it apart: "swiglu"
    overrides: str  # the same as overrides: "activation=swiglu"
    metric: str
    direction: Direction
    planned: int  # seeds that the variant or the baseline was given
    differences: tuple[float, ...]  # variant minus baseline, one per complete pair
    ended: int  # runs of the variant that finished or diverged
    diverged: int
    baseline_ended: int
    baseline_diverged: int
    estimate: Estimate | None = None  # None below FEWEST_SEEDS
    interval: Interval | None = None  # at `level`
    p_adjusted: float | None = None
    adjustment: str | None = None  # "Holm" or "simultaneous"
    correlation: float | None = None
    margin: float | None = None  # declared beforehand
    level: float = LEVEL  # of every test and interval; smaller where the study was analysed more than once
    identical: bool = False  # every final metric is the baseline's to the bit, or what should have differed did not
    unchanged: tuple[str, ...] = ()  # the axes that should have made a difference and made none
    blocked: OtherCorpus | None = None  # why the two cannot be compared at all

    @property
    def preliminary(self) -> bool:
        """Enough seeds for an interval, too few for one of its own."""
        return FEWEST_SEEDS <= len(self.differences) < FULL_SEEDS

    @property
    def equivalence_interval(self) -> Interval | None:
        """At twice the level: the two one-sided tests. None without a declared margin."""
        return self.estimate.interval(1 - 2 * self.level) if self.estimate and self.margin is not None else None


def judge(evidence: Evidence) -> Verdict:
    """The verdict, the graver findings first."""
    estimate, interval, p = evidence.estimate, evidence.interval, evidence.p_adjusted
    if evidence.blocked:
        return Verdict.NOT_COMPARABLE
    if evidence.diverged:
        return Verdict.UNSTABLE
    if not evidence.differences:
        return Verdict.NO_PAIRS
    if evidence.identical:
        return Verdict.NO_EFFECT
    if estimate is None or interval is None or p is None:
        return Verdict.TOO_FEW_SEEDS
    if p < evidence.level and not interval[0] <= 0 <= interval[1]:
        better = (estimate.effect < 0) == (evidence.direction == "min")
        return Verdict.BETTER if better else Verdict.WORSE
    if evidence.margin is not None and estimate.within(evidence.margin, evidence.level):
        return Verdict.EQUIVALENT
    return Verdict.UNRESOLVED
