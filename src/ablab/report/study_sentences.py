"""The sentences on what a study finds beside its verdicts: interactions, and how a metric grows with size."""

from __future__ import annotations

from ablab.analysis.estimates import FEWEST_SEEDS
from ablab.analysis.interactions import Interaction, Interactions
from ablab.analysis.scaling import Exponent
from ablab.report.formatting import confidence, decimals_for, number, p_value, plural, without_zero


def pair_label(item: Interaction) -> str:
    """ "attention=lsh and activation=relu"."""
    return " and ".join(f"{factor}={option}" for factor, option in zip(item.factors, item.options, strict=True))


def interaction_sentence(item: Interaction) -> str:
    """One line: the effect, its interval, p and the seeds."""
    label = pair_label(item)
    if item.effect is None:
        return f"{label}: no seed has all four combinations."
    if item.interval is None or item.p_adjusted is None:
        digits = decimals_for(max(map(abs, item.differences)))
        values = ", ".join(number(value, digits, signed=True) for value in item.differences)
        counted = plural(len(item.seeds), "seed")
        return f"{label} together: {values} on {counted}; an interval needs {FEWEST_SEEDS} seeds."
    digits = decimals_for((item.interval[1] - item.interval[0]) / 2 or item.effect)
    effect, low, high = (number(value, digits, signed=True) for value in (item.effect, *item.interval))
    before = "; decided at an earlier planned look" if item.decided_before else ""
    averaged = f", averaged over {item.contexts} settings of the other factors" if item.contexts > 1 else ""
    return (
        f"{label} together: {effect} {item.metric} beyond the sum of their effects "
        f"({confidence(item.level)} CI {low} to {high}; Holm p {p_value(item.p_adjusted)}), "
        f"{plural(len(item.seeds), 'seed')}{', preliminary' if item.preliminary else ''}{averaged}"
        f"{'' if item.resolved else '; not resolved'}{before}."
    )


def interactions_sentence(found: Interactions) -> str:
    """Say what holds for all of them together."""
    if len(found.factors) < 2:
        return "Fewer than two factors vary: there is nothing that could interact."
    if not found.visible:
        return (
            "This design cannot see interactions: no two options were run together, each alone and neither. "
            "design=factorial runs every combination; for two factors design=pairwise does, too."
        )
    judged = [item for item in found.items if item.estimate]
    if not judged:
        return f"No interaction has the {FEWEST_SEEDS} complete seeds that an interval needs."
    resolved = sum(item.resolved for item in judged)
    family = f"all {found.family} interactions of the study" if found.family > 1 else "one interaction"
    return (
        f"{resolved} of {plural(len(judged), 'interaction')} resolved, by Holm's p over {family}: a family of its own, "
        f"in which any false claim has at most the probability {without_zero(found.level)}."
    )


def exponent_sentence(one: Exponent) -> str:
    """ "source_text: attention=lsh: seconds_per_step grows as seq_len^1.08 (95% CI 1.02 to 1.14 over 5 seeds)."."""
    if one.alpha is None:
        run = f"{one.x[0]:,.0f} only" if one.x else "none with a value"
        return f"{one.series}: an exponent of {one.y_name} needs two values of {one.x_name} ({run})."
    half = (one.interval[1] - one.interval[0]) / 2 if one.interval else 0.0
    digits = min(max(decimals_for(half), 2), 4) if half else 2
    without = f"; {plural(one.left_out, 'run')} without a positive value left out" if one.left_out else ""
    shown = number(one.alpha, digits)
    return f"{one.series}: {one.y_name} grows as {one.x_name}^{shown} ({_basis(one, digits)}{without})."


def _basis(one: Exponent, digits: int) -> str:
    if one.basis == "counted":
        return "counted"
    if one.interval is None:
        return f"{plural(len(one.x), 'value')} of {one.x_name}, {plural(one.seeds, 'seed')}: no interval"
    low, high = (number(bound, digits) for bound in one.interval)
    over = f"over {one.seeds} seeds" if one.basis == "seeds" else f"of the fit to {len(one.x)} values"
    return f"{confidence(one.level)} CI {low} to {high} {over}"
