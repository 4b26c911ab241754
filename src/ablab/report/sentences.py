"""The one sentence that each verdict is allowed to say.

A verdict names its interval, its seeds and its correction for multiple comparisons. Nothing says "no difference" unless
a margin was declared beforehand, and an unresolved effect comes with the smallest one these seeds could have shown.
"""

from __future__ import annotations

from collections.abc import Callable

from ablab.analysis.baseline import PREVIOUS, Baselines
from ablab.analysis.comparison import Comparison, Comparisons
from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL, Estimate, Interval, rate_bound
from ablab.analysis.power import MOST_SEEDS, detectable, seeds_for, seeds_needed
from ablab.analysis.study_notes import OtherCorpus
from ablab.analysis.verdicts import Evidence, Verdict
from ablab.config.axes import AXES
from ablab.report.doubts import compared_rates, condition, diverged, hidden_by_few, own_spread
from ablab.report.formatting import confidence, decimals_for, number, p_value, plural, share


def verdict_line(item: Comparison) -> str:
    """The verdict as one line that says whom it is about."""
    about = "" if names_its_subject(item) else f"{item.label}: "
    return f"{item.verdict.value:<10}  {about}{verdict_sentence(item)}"


def verdict_sentence(item: Comparison) -> str:
    return sentence(item, item.verdict)


def names_its_subject(item: Comparison) -> bool:
    """Whether the sentence of a verdict begins with whom it is about.

    Not told by a look into the sentence: "C" is in every "CI".
    """
    if item.verdict is Verdict.NO_EFFECT:  # begins with the overrides, which may have nothing of a given name
        return item.label in (item.overrides, item.overrides.partition("=")[2])
    return item.verdict not in (Verdict.EQUIVALENT, Verdict.UNSTABLE)


def sentence(evidence: Evidence, verdict: Verdict) -> str:
    """Say a verdict, with the evidence that it rests on."""
    return _SENTENCES[verdict](evidence)


def against(baselines: Baselines) -> str:
    """Name whom each variant is compared with."""
    return "the one before each" if baselines.steps else baselines.first


def named(baselines: Baselines) -> str:
    """The same for programs, as a command takes it."""
    return PREVIOUS if baselines.steps else baselines.first


def measured(last_k: int) -> str:
    """Name what a value is, where it is not the final one: "mean of the last 3 evaluations", else ""."""
    return f"mean of the last {last_k} evaluations" if last_k > 1 else ""


def interval_name(comparisons: Comparisons) -> str:
    """Name the intervals of all comparisons: "95% CI", or "CI" where each is at the level of its own look."""
    one_level = comparisons.unit is None or comparisons.unit.level is not None
    return f"{confidence(comparisons.level)} CI" if one_level else "CI"


def _not_comparable(evidence: Evidence) -> str:
    why = _other_corpus(evidence.blocked) if evidence.blocked else "not comparable"
    return f"{evidence.label}: {why}; not ranked."


def _other_corpus(found: OtherCorpus) -> str:
    (own, own_sha), (base, base_sha) = found.own, found.baseline
    where = f"on {found.task}, " if found.task else ""
    did = "evaluated" if found.evaluated else "trained"
    return (
        f"{where}{did} on another corpus than the baseline: {own} {own_sha[:8]} against {base} {base_sha[:8]} "
        f"(seed {found.seed})"
    )


def _resolved(evidence: Evidence) -> str:
    estimate, interval, p = _estimated(evidence)
    verb = "lowers" if estimate.effect < 0 else "raises"
    digits = decimals_for((interval[1] - interval[0]) / 2 or estimate.effect)
    spans = interval[0] <= 0 <= interval[1]  # where all hold together, or an earlier look has decided
    ends = [number(end, digits, signed=spans) for end in (interval if spans else sorted(map(abs, interval)))]
    parts = [f"{len(evidence.differences)}/{evidence.planned} seeds"]
    if evidence.preliminary:
        parts.append("preliminary")
    if evidence.correlation is not None:
        parts.append(f"r = {share(evidence.correlation)}")
    bound = rate_bound(evidence.diverged, evidence.ended)
    shown = f"{_interval_name(evidence, evidence.level)} {' to '.join(ends)}"
    return (
        f"{evidence.label} {verb} {evidence.metric} by {number(abs(estimate.effect), digits)} "
        f"({shown}; {evidence.adjustment} p {p_value(p)}); "
        f"{', '.join(parts)}; diverged {evidence.diverged}/{evidence.ended} (true rate may be up to {bound:.0%})"
        f"{condition(evidence)}.{own_spread(evidence)}"
    )


def _within_floor(evidence: Evidence) -> str:
    estimate, interval, p = _estimated(evidence)
    floor = evidence.floor or 0.0
    digits = max(decimals_for((interval[1] - interval[0]) / 2 or estimate.effect), decimals_for(floor) if floor else 0)
    low, high = (number(bound, digits, signed=True) for bound in interval)
    return (
        f"{evidence.label}: {number(estimate.effect, digits, signed=True)} "
        f"({_interval_name(evidence, evidence.level)} {low} to {high}; {evidence.adjustment} p {p_value(p)}), "
        f"{plural(estimate.pairs, 'seed')}; placebos differ from the baseline by up to {number(floor, digits)}, and no "
        f"effect below that is claimed{condition(evidence)}."
    )


def _unresolved(evidence: Evidence) -> str:
    estimate, interval, p = _estimated(evidence)
    digits = decimals_for((interval[1] - interval[0]) / 2 or estimate.effect)
    low, high = (number(bound, digits, signed=True) for bound in interval)
    preliminary = ", preliminary" if evidence.preliminary else ""
    text = (
        f"{evidence.label}: {number(estimate.effect, digits, signed=True)} "
        f"({_interval_name(evidence, evidence.level)} {low} to {high}; adj. p {p_value(p)}), "
        f"{plural(estimate.pairs, 'seed')}{preliminary}{condition(evidence)}.{hidden_by_few(evidence)}"
    )
    if estimate.tied:
        return text
    text += f" Detectable here: {number(detectable(estimate, evidence.share_level), digits)}."
    # Without a margin the effect as observed is the one to resolve, which may be far from the true one.
    wanted = abs(evidence.margin or estimate.effect)
    if not wanted:
        return text
    about, least, most = seeds_needed(wanted, estimate, evidence.share_level, evidence.own_estimate)
    if about >= MOST_SEEDS and seeds_for(wanted, estimate.sd, evidence.share_level) < MOST_SEEDS:
        return f"{text} {_hidden_by_choice(evidence, estimate, wanted, digits)}"
    seeds = f"{_seeds(about)} seeds" if about >= MOST_SEEDS else f"about {_seeds(about)} seeds"
    if evidence.margin is None:
        return f"{text} An effect as large as that would need {seeds}."
    ranged = "" if about >= MOST_SEEDS else f" ({_seeds(least)} to {_seeds(most)})"
    return f"{text} Resolving {number(wanted, max(digits, decimals_for(wanted)))} needs {seeds}{ranged}."


def _hidden_by_choice(evidence: Evidence, estimate: Estimate, wanted: float, digits: int) -> str:
    """Where no seeds help, since rates might have been chosen otherwise; an effect as large as this may be told."""
    choice, small = estimate.choice, max(digits, decimals_for(wanted), decimals_for(estimate.choice))
    text = (
        f"Not even {MOST_SEEDS:,} seeds resolve {number(wanted, small)}: choosing by tuning has a standard error of "
        f"{number(choice, small)}, which more tune.seeds make smaller."
    )
    needed = seeds_for(estimate.effect, estimate.sd, evidence.share_level, choice)
    if needed >= MOST_SEEDS or abs(estimate.effect) <= wanted:
        return text
    return f"{text} An effect as large as the one seen would need about {_seeds(needed)} seeds."


def _equivalent(evidence: Evidence) -> str:
    margin, interval, p = evidence.margin, evidence.equivalence_interval, evidence.p_equivalence
    assert margin is not None
    assert interval is not None
    assert p is not None
    digits = decimals_for(margin)
    low, high = (number(bound, digits, signed=True) for bound in interval)
    level = evidence.level if evidence.adjustment == "simultaneous" else 2 * evidence.looks.level(LEVEL, 1)
    tested = f"{margin_name(evidence)}; {evidence.adjustment} p {p_value(p)}"
    shown = f"{_interval_name(evidence, level)} {low} to {high}{', preliminary' if evidence.preliminary else ''}"
    return f"|effect| < {number(margin, digits)} ({tested}): {shown}{condition(evidence)}."


def margin_name(evidence: Evidence) -> str:
    """Say where the margin came from."""
    return "declared margin" if evidence.margin_declared else "margin given after the runs"


def _interval_name(evidence: Evidence, level: float) -> str:
    """ "95% CI" of one comparison alone; "simultaneous 95% CI" where those of all are shown."""
    return f"{'simultaneous ' if evidence.intervals == 'simultaneous' else ''}{confidence(level)} CI"


def _unstable(evidence: Evidence) -> str:
    baseline = f"baseline {evidence.baseline_diverged}/{evidence.baseline_ended}, {compared_rates(evidence)}"
    text = f"{evidence.diverged}/{evidence.ended} diverged ({baseline})"
    if not evidence.differences:
        return f"{text}; no complete pair; not ranked."
    return f"{text}; effect conditional on {plural(len(evidence.differences), 'pair')}; not ranked."


def _too_few(evidence: Evidence) -> str:
    spread = max(evidence.differences) - min(evidence.differences)
    digits = decimals_for(spread or max(map(abs, evidence.differences)))
    values = ", ".join(number(value, digits, signed=True) for value in evidence.differences)
    count = plural(len(evidence.differences), "seed")
    return f"{evidence.label}: {values} on {count}; an interval needs {FEWEST_SEEDS} seeds{condition(evidence)}."


def _no_pairs(evidence: Evidence) -> str:
    return (
        f"{evidence.label}: no seed has {evidence.metric or 'a metric'} from both this variant and the baseline "
        f"({plural(evidence.planned, 'seed')} planned){diverged(evidence)}; see the run health."
    )


def _no_effect(evidence: Evidence) -> str:
    if evidence.unchanged:
        governed = " nor ".join(AXES[axis].governs for axis in evidence.unchanged)
        return f"{evidence.overrides} never changed {governed}; this variant is the baseline under another name."
    return (
        f"{evidence.overrides} never changed a final metric, to the last bit, on "
        f"{plural(len(evidence.differences), 'seed')}; this variant is the baseline under another name."
    )


_SENTENCES: dict[Verdict, Callable[[Evidence], str]] = {
    Verdict.BETTER: _resolved,
    Verdict.WORSE: _resolved,
    Verdict.UNRESOLVED: _unresolved,
    Verdict.EQUIVALENT: _equivalent,
    Verdict.WITHIN_FLOOR: _within_floor,
    Verdict.UNSTABLE: _unstable,
    Verdict.TOO_FEW_SEEDS: _too_few,
    Verdict.NO_PAIRS: _no_pairs,
    Verdict.NO_EFFECT: _no_effect,
    Verdict.NOT_COMPARABLE: _not_comparable,
}


def _estimated(evidence: Evidence) -> tuple[Estimate, Interval, float]:
    """The numbers that every verdict on an interval has."""
    assert evidence.estimate is not None
    assert evidence.shown_interval is not None
    assert evidence.p_adjusted is not None
    return evidence.estimate, evidence.shown_interval, evidence.p_adjusted


def _seeds(count: int) -> str:
    return f"more than {MOST_SEEDS:,}" if count >= MOST_SEEDS else f"{count:,}"
