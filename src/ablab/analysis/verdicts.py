"""The kinds of verdict, and what decides between them.

Nothing is called equivalent unless a margin was declared beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from ablab.analysis.estimates import FEWEST_SEEDS, FULL_SEEDS, LEVEL, Estimate, Interval, paired
from ablab.analysis.looks import ONE_LOOK, Looks
from ablab.analysis.notes import Note
from ablab.analysis.second_opinion import SecondOpinion
from ablab.analysis.study_notes import OtherCorpus
from ablab.results.record import Direction


class Verdict(StrEnum):
    BETTER = "BETTER"
    WORSE = "WORSE"
    UNRESOLVED = "UNRESOLVED"
    EQUIVALENT = "EQUIVALENT"
    WITHIN_FLOOR = "WITHIN THE PLACEBOS"
    UNSTABLE = "UNSTABLE"
    TOO_FEW_SEEDS = "TOO FEW SEEDS"
    NO_PAIRS = "NO PAIRS"
    NO_EFFECT = "NO EFFECT ON THE MODEL"
    NOT_COMPARABLE = "NOT COMPARABLE"


RESOLVED = frozenset({Verdict.BETTER, Verdict.WORSE})
Split = Literal["validation", "test"]
Intervals = Literal["single", "simultaneous"]  # that are shown: each alone at its level, or all of a study together


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
    interval: Interval | None = None  # at `level` of this comparison alone; with few seeds the simultaneous one
    simultaneous: Interval | None = None  # those of all comparisons of the study hold together, at `level`
    p_adjusted: float | None = None  # of no effect
    p_equivalence: float | None = None  # of an effect of the margin or more, adjusted; None without a margin
    adjustment: str | None = None  # "Holm" or "simultaneous"
    p_divergence: float | None = None  # of equal rates of divergence, adjusted; None where neither side diverged
    second: SecondOpinion | None = None  # where there are seeds enough
    correlation: float | None = None
    margin: float | None = None
    margin_declared: bool = False  # by the study, before its runs
    looks: Looks = ONE_LOOK  # at the study; p values are sequential ones, to be held against `LEVEL`
    level: float = LEVEL  # of the present look, and of `interval`; smaller where there are several
    share_level: float = LEVEL  # of this comparison while no other is resolved: of `simultaneous`, and for power
    intervals: Intervals = "single"  # that are shown
    identical: bool = False  # every final metric is the baseline's to the bit, or what should have differed did not
    unchanged: tuple[str, ...] = ()  # the axes that should have made a difference and made none
    blocked: OtherCorpus | None = None  # why the two cannot be compared at all
    choice: float | None = None  # standard error that choosing tuned settings adds; None: not tuned, or not known
    floor: float | None = None  # up to which placebos differ from the baseline; None without any

    @property
    def preliminary(self) -> bool:
        """Enough seeds for an interval, too few for one of its own."""
        return FEWEST_SEEDS <= len(self.differences) < FULL_SEEDS

    @property
    def shown_interval(self) -> Interval | None:
        """The one that is shown, as `intervals` says."""
        return self.simultaneous if self.intervals == "simultaneous" else self.interval

    @property
    def equivalence_interval(self) -> Interval | None:
        """The shown one of the two one-sided tests: at twice the level, but for few seeds. None without a margin."""
        if self.estimate is None or self.margin is None:
            return None
        if self.adjustment == "simultaneous":
            return self.simultaneous
        return self.estimate.interval(1 - 2 * self.equivalence_level)

    @property
    def equivalence_level(self) -> float:
        """The level of each of the two one-sided tests that are shown."""
        return self.share_level if self.intervals == "simultaneous" else self.looks.level(LEVEL, 1)

    @property
    def decided_before(self) -> bool:
        """Whether an effect was resolved at an earlier look that was planned, which stands, and is not any more."""
        includes_zero = self.interval is not None and self.interval[0] <= 0 <= self.interval[1]
        return includes_zero and self.looks.planned_several and self.p_adjusted is not None and self.p_adjusted < LEVEL

    @property
    def equivalent_before(self) -> bool:
        """Whether an earlier look that was planned showed the effect inside the margin, which stands, and this not."""
        interval, margin = self.equivalence_interval, self.margin or 0.0
        outside = interval is not None and not -margin < interval[0] <= interval[1] < margin
        return outside and self.looks.planned_several and self.equivalent

    @property
    def own_estimate(self) -> Estimate | None:
        """From its differences alone, where the standard error is pooled."""
        return paired(self.differences, self.choice or 0.0) if self.preliminary else None

    @property
    def less_stable(self) -> bool:
        """Whether it diverged, and in no smaller a share of its runs than the baseline."""
        return self.diverged > 0 and self.diverged * self.baseline_ended >= self.baseline_diverged * self.ended

    @property
    def equivalent(self) -> bool:
        """Whether the effect is shown to lie inside the margin."""
        return self.p_equivalence is not None and self.p_equivalence < LEVEL


@dataclass(frozen=True, kw_only=True)
class Comparison(Evidence):
    """One variant against the baseline, on one task or on the suite: the evidence and what it says."""

    variant: str  # as in the table of runs
    baseline: str
    task: str  # or the name of the suite
    seeds: tuple[int, ...]  # of the complete pairs, in the order of `differences`
    baseline_values: tuple[float, ...]  # the baseline's metric on those seeds
    effect: float | None  # the mean difference; None without a pair or where the two cannot be compared
    p_raw: float | None
    verdict: Verdict
    notes: tuple[Note, ...]  # unequal conditions, missing runs

    @property
    def wins(self) -> int:
        """Seeds on which the variant did better than the baseline."""
        return sum(difference < 0 if self.direction == "min" else difference > 0 for difference in self.differences)


def judge(evidence: Evidence) -> Verdict:
    """The verdict, the graver findings first."""
    estimate, interval, p = evidence.estimate, evidence.interval, evidence.p_adjusted
    if evidence.blocked:
        return Verdict.NOT_COMPARABLE
    if evidence.less_stable:
        return Verdict.UNSTABLE
    if not evidence.differences:
        return Verdict.NO_PAIRS
    if evidence.identical:
        return Verdict.NO_EFFECT
    if estimate is None or interval is None or p is None:
        return Verdict.TOO_FEW_SEEDS
    if p < LEVEL and (evidence.decided_before or not interval[0] <= 0 <= interval[1]):
        if evidence.floor is not None and abs(estimate.effect) <= evidence.floor:
            return Verdict.WITHIN_FLOOR
        better = (estimate.effect < 0) == (evidence.direction == "min")
        return Verdict.BETTER if better else Verdict.WORSE
    if evidence.equivalent:
        return Verdict.EQUIVALENT
    return Verdict.UNRESOLVED
