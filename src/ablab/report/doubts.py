"""What else a verdict's line says: where a second opinion differs from it, and whether rates of divergence do."""

from __future__ import annotations

from ablab.analysis.estimates import LEVEL, fisher
from ablab.analysis.verdicts import Evidence
from ablab.report.formatting import decimals_for, number, p_value


def own_spread(evidence: Evidence) -> str:
    """Where a resolved effect is not, with the spread of all comparisons on the task; else ""."""
    second, estimate = evidence.second, evidence.estimate
    if second is None or estimate is None or second.p_shared is None or second.p_shared < LEVEL:
        return ""
    digits = decimals_for(estimate.sd)
    shared, own = number(second.shared_sd or 0.0, digits), number(estimate.sd, digits)
    return (
        f" RESTS ON ITS OWN SPREAD: with that of all comparisons on the task (sd {shared}, its own {own}) "
        f"p {p_value(second.p_shared)}; its median is {number(second.median, digits, signed=True)}."
    )


def hidden_by_few(evidence: Evidence) -> str:
    """Where an unresolved effect is resolved by signs, so that a few seeds stand against the rest; else ""."""
    second = evidence.second
    if second is None or second.p_sign is None or second.p_sign >= evidence.level:
        return ""
    agree = sum((difference < 0) == (second.median < 0) for difference in evidence.differences)
    digits = decimals_for(second.median)
    return (
        f" BY SIGNS it is resolved: {agree} of {len(evidence.differences)} seeds agree (p {p_value(second.p_sign)}), "
        f"median {number(second.median, digits, signed=True)}; few seeds stand against the rest."
    )


def compared_rates(evidence: Evidence) -> str:
    """Fisher's p of equal rates of divergence, and who diverges more often where that is resolved."""
    p = evidence.p_divergence
    if p is None:
        p = fisher(evidence.diverged, evidence.ended, evidence.baseline_diverged, evidence.baseline_ended)
    said = f"Fisher p {p_value(p)}"
    if p >= evidence.level:
        return said
    more = evidence.diverged * evidence.baseline_ended > evidence.baseline_diverged * evidence.ended
    return f"{said}: {evidence.label} DIVERGES {'MORE' if more else 'LESS'} OFTEN"


def condition(evidence: Evidence) -> str:
    """Where runs of the baseline diverged, the effect holds for the seeds on which none did; else ""."""
    rates = diverged(evidence)
    return f"{rates}: conditional on convergence" if rates else ""


def diverged(evidence: Evidence) -> str:
    """How many runs of the baseline diverged, beside those of the variant; "" where none did."""
    if not evidence.baseline_diverged:
        return ""
    own, base = f"{evidence.diverged}/{evidence.ended}", f"{evidence.baseline_diverged}/{evidence.baseline_ended}"
    return f"; baseline diverged {base} against {own} ({compared_rates(evidence)})"
