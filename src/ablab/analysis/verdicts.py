"""The kinds of verdict, and the one sentence that each of them is allowed to say.

A verdict names its interval, its seeds and its correction for multiple comparisons. Nothing says "no difference" unless
a margin was declared beforehand, and an unresolved effect comes with the smallest one these seeds could have shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ablab.analysis.estimates import FEWEST_SEEDS, FULL_SEEDS, LEVEL, Estimate, Interval, fisher, rate_bound
from ablab.analysis.power import MOST_SEEDS, detectable, seeds_needed
from ablab.analysis.wording import confidence, decimals_for, number, p_value, plural, share
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
    adjustment: str | None = None  # "Holm" or "Dunnett"
    correlation: float | None = None
    margin: float | None = None  # declared beforehand
    level: float = LEVEL  # of every test and interval; smaller where the study was looked at more than once
    identical: bool = False  # every final metric is the baseline's to the bit, or what should have differed did not
    unchanged: tuple[str, ...] = ()  # what should have differed and did not
    blocked: str | None = None  # why the two cannot be compared at all

    @property
    def preliminary(self) -> bool:
        """Enough seeds for an interval, too few for one of its own."""
        return FEWEST_SEEDS <= len(self.differences) < FULL_SEEDS

    @property
    def equivalence_interval(self) -> Interval | None:
        """At twice the level: the two one-sided tests. None without a declared margin."""
        return self.estimate.interval(1 - 2 * self.level) if self.estimate and self.margin is not None else None


def judge(evidence: Evidence) -> tuple[Verdict, str]:
    """The verdict and its sentence, the graver findings first."""
    estimate, interval, p = evidence.estimate, evidence.interval, evidence.p_adjusted
    if evidence.blocked:
        return Verdict.NOT_COMPARABLE, f"{evidence.label}: {evidence.blocked}."
    if evidence.diverged:
        return Verdict.UNSTABLE, _unstable(evidence)
    if not evidence.differences:
        return Verdict.NO_PAIRS, _no_pairs(evidence)
    if evidence.identical:
        return Verdict.NO_EFFECT, _no_effect(evidence)
    if estimate is None or interval is None or p is None:
        return Verdict.TOO_FEW_SEEDS, _too_few(evidence)
    if p < evidence.level and not interval[0] <= 0 <= interval[1]:
        better = (estimate.effect < 0) == (evidence.direction == "min")
        return (Verdict.BETTER if better else Verdict.WORSE), _resolved(evidence, estimate, interval, p)
    if evidence.margin is not None and estimate.within(evidence.margin, evidence.level):
        return Verdict.EQUIVALENT, _equivalent(estimate, evidence.margin, evidence.level)
    return Verdict.UNRESOLVED, _unresolved(evidence, estimate, interval, p)


def _resolved(evidence: Evidence, estimate: Estimate, interval: Interval, p: float) -> str:
    verb = "lowers" if estimate.effect < 0 else "raises"
    low, high = sorted(map(abs, interval))
    digits = decimals_for((high - low) / 2 or estimate.effect)
    parts = [f"{len(evidence.differences)}/{evidence.planned} seeds"]
    if evidence.preliminary:
        parts.append("preliminary")
    if evidence.correlation is not None:
        parts.append(f"r = {share(evidence.correlation)}")
    bound = rate_bound(evidence.diverged, evidence.ended)
    shown = f"{confidence(evidence.level)} CI {number(low, digits)} to {number(high, digits)}"
    return (
        f"{evidence.label} {verb} {evidence.metric} by {number(abs(estimate.effect), digits)} "
        f"({shown}; {evidence.adjustment} p {p_value(p)}); "
        f"{', '.join(parts)}; diverged {evidence.diverged}/{evidence.ended} (true rate may be up to {bound:.0%})"
        f"{_condition(evidence)}."
    )


def _unresolved(evidence: Evidence, estimate: Estimate, interval: Interval, p: float) -> str:
    digits = decimals_for((interval[1] - interval[0]) / 2 or estimate.effect)
    low, high = (number(bound, digits, signed=True) for bound in interval)
    preliminary = ", preliminary" if evidence.preliminary else ""
    text = (
        f"{evidence.label}: {number(estimate.effect, digits, signed=True)} "
        f"({confidence(evidence.level)} CI {low} to {high}; adj. p {p_value(p)}), "
        f"{plural(estimate.pairs, 'seed')}{preliminary}{_condition(evidence)}."
    )
    if estimate.standard_error == 0:
        return text
    text += f" Detectable here: {number(detectable(estimate, evidence.level), digits)}."
    # Without a declared margin the effect as observed is the one to resolve.
    wanted = abs(evidence.margin or estimate.effect)
    if not wanted:
        return text
    about, least, most = seeds_needed(wanted, estimate, evidence.level)
    seeds = f"about {_seeds(about)} seeds ({_seeds(least)} to {_seeds(most)})"
    if about >= MOST_SEEDS:
        seeds = f"{_seeds(about)} seeds"
    return f"{text} Resolving {number(wanted, max(digits, decimals_for(wanted)))} needs {seeds}."


def _equivalent(estimate: Estimate, margin: float, level: float) -> str:
    digits = decimals_for(margin)
    low, high = (number(bound, digits, signed=True) for bound in estimate.interval(1 - 2 * level))
    return f"|effect| < {number(margin, digits)} (declared margin): {confidence(2 * level)} CI {low} to {high}."


def _unstable(evidence: Evidence) -> str:
    text = f"{evidence.diverged}/{evidence.ended} diverged ({_against_baseline(evidence)})"
    if not evidence.differences:
        return f"{text}; no complete pair; not ranked."
    return f"{text}; effect conditional on {plural(len(evidence.differences), 'pair')}; not ranked."


def _against_baseline(evidence: Evidence) -> str:
    p = fisher(evidence.diverged, evidence.ended, evidence.baseline_diverged, evidence.baseline_ended)
    return f"baseline {evidence.baseline_diverged}/{evidence.baseline_ended}, Fisher p {p_value(p)}"


def _condition(evidence: Evidence) -> str:
    """Where only the baseline diverged, the effect holds for the seeds on which it did not."""
    if not evidence.baseline_diverged:
        return ""
    diverged = f"{evidence.baseline_diverged}/{evidence.baseline_ended}"
    return f"; baseline diverged {diverged}: conditional on convergence"


def _too_few(evidence: Evidence) -> str:
    spread = max(evidence.differences) - min(evidence.differences)
    digits = decimals_for(spread or max(map(abs, evidence.differences)))
    values = ", ".join(number(value, digits, signed=True) for value in evidence.differences)
    count = plural(len(evidence.differences), "seed")
    return f"{evidence.label}: {values} on {count}; an interval needs {FEWEST_SEEDS} seeds{_condition(evidence)}."


def _no_pairs(evidence: Evidence) -> str:
    return (
        f"{evidence.label}: no seed has {evidence.metric or 'a metric'} from both this variant and the baseline "
        f"({plural(evidence.planned, 'seed')} planned); see the run health."
    )


def _no_effect(evidence: Evidence) -> str:
    if evidence.unchanged:
        governed = " nor ".join(evidence.unchanged)
        return f"{evidence.overrides} never changed {governed}; this variant is the baseline under another name."
    return (
        f"{evidence.overrides} never changed a final metric, to the last bit, on "
        f"{plural(len(evidence.differences), 'seed')}; this variant is the baseline under another name."
    )


def _seeds(count: int) -> str:
    return f"more than {MOST_SEEDS:,}" if count >= MOST_SEEDS else f"{count:,}"
