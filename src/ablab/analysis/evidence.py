"""What is known of one comparison before the others are looked at."""

from __future__ import annotations

from ablab.analysis import conditions, effects
from ablab.analysis.estimates import correlation
from ablab.analysis.pairing import Outcome, Pairing, choices, label
from ablab.analysis.verdicts import Evidence
from ablab.results.collect import Runs
from ablab.results.record import Direction


def evidence_of(runs: Runs, pairing: Pairing, direction: Direction, margin: float | None, level: float) -> Evidence:
    """The evidence on the variant of `pairing`, without what depends on how many comparisons there are."""
    blocked = conditions.other_corpus(pairing)
    identical = _identical(pairing)
    same = effects.unchanged(pairing) if identical or effects.sums_vary(pairing) else ()
    own, base = choices(runs, pairing.variant), choices(runs, pairing.baseline)
    ended, diverged = _ends(pairing.of_variant)
    baseline_ended, baseline_diverged = _ends(pairing.of_baseline)
    return Evidence(
        label=label(runs, pairing.variant, pairing.baseline),
        overrides=",".join(f"{k}={v}" for k, v in own.items() if v != base[k] and v) or pairing.variant,
        metric=pairing.metric,
        direction=direction,
        planned=len(pairing.planned),
        differences=() if blocked else tuple(pairing.differences),
        ended=ended,
        diverged=diverged,
        baseline_ended=baseline_ended,
        baseline_diverged=baseline_diverged,
        correlation=None if blocked else correlation(pairing.values, pairing.baseline_values),
        margin=margin,
        level=level,
        identical=identical or bool(same),
        unchanged=same,
        blocked=blocked,
    )


def _ends(side: dict[int, Outcome]) -> tuple[int, int]:
    """(runs that finished or diverged, those that diverged)."""
    statuses = [outcome.record.status for outcome in side.values()]
    diverged = statuses.count("diverged")
    return statuses.count("ok") + diverged, diverged


def _identical(pairing: Pairing) -> bool:
    """Is every final metric of every pair the baseline's, to the last bit, from a model of the same size?

    Only where a metric of quality is compared: two ways of training that give the same model may differ in cost.
    """
    return bool(pairing.pairs) and all(
        pairing.metric in own.metrics and own.metrics == base.metrics and own.cost.parameters == base.cost.parameters
        for own, base in pairing.pairs
    )
