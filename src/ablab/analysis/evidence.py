"""Evidence on one comparison before the others are considered.

Did the swap change what should have differed? Decided from the components' responses to fixed inputs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from ablab.analysis import conditions
from ablab.analysis.estimates import FEWEST_SEEDS, correlation
from ablab.analysis.looks import Looks
from ablab.analysis.notes import ConstantDifference
from ablab.analysis.pairing import Outcome, Pairing, choices, label
from ablab.analysis.verdicts import Evidence
from ablab.config.axes import AXES
from ablab.config.identity import IDENTITY_EXCLUDES
from ablab.results.collect import Runs
from ablab.results.evaluation import AT
from ablab.results.record import Direction, Record

GOVERNED = tuple(axis.name for axis in AXES.values() if axis.governs)  # axes whose effect is probed
_BESIDES = {"seed", "axes", "overrides", *IDENTITY_EXCLUDES}  # keys of a config that are no component
_ROUNDING = 4 * sys.float_info.epsilon  # of the difference of two values: less than this of the larger is none
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6  # of single precision's rounding


def evidence_of(runs: Runs, pairing: Pairing, direction: Direction, margin: float | None, looks: Looks) -> Evidence:
    """The evidence on the variant of `pairing`, without what depends on how many comparisons there are."""
    blocked = conditions.other_corpus(pairing)
    identical = _identical(pairing)
    # Components may be alike on the lengths of the training, by which they are probed, and not on longer ones.
    probed = sums_vary(pairing) and AT not in pairing.metric
    same = unchanged(pairing) if identical or probed else ()
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
        looks=looks,
        level=looks.level(),
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
    metric = pairing.metric
    return bool(pairing.pairs) and all(
        metric in own.measured
        and own.measured[metric] == base.measured.get(metric)
        and own.metrics == base.metrics
        and own.cost.parameters == base.cost.parameters
        for own, base in pairing.pairs
    )


def unchanged(pairing: Pairing) -> tuple[str, ...]:
    """The axes that the two differ in by their configs and not by what they did, if those are all; else empty."""
    found: set[str] = set()
    for own, base in pairing.pairs:
        axes = _differing(own, base)
        if not axes or not axes <= set(GOVERNED) or own.cost.parameters != base.cost.parameters:
            return ()
        if not all(_same(own, base, axis) for axis in axes):
            return ()
        found |= axes
    return tuple(axis for axis in GOVERNED if axis in found)


def sums_vary(pairing: Pairing) -> bool:
    """Whether equal computations may give unequal metrics: on a CPU they do not, and any difference is an effect."""
    return bool(pairing.pairs) and not any(
        record.machine.get("device", "cpu") == "cpu" for pair in pairing.pairs for record in pair
    )


def _differing(own: Record, base: Record) -> set[str]:
    return {
        key
        for key in own.config.keys() | base.config.keys()
        if key not in _BESIDES and own.config.get(key) != base.config.get(key)
    }


def _same(own: Record, base: Record, axis: str) -> bool:
    mine, theirs = (_of_axis(record, axis) for record in (own, base))
    return bool(mine) and len(mine) == len(theirs) and all(map(_close, mine, theirs))


def _of_axis(record: Record, axis: str) -> list[float]:
    named = sorted(name for name in record.responses if name.split("/")[0] == axis)
    return [number for name in named for number in record.responses[name]]


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def constant_difference(pairing: Pairing) -> ConstantDifference | None:
    """What to note where all differences are equal but for the rounding of the values that they are taken of."""
    if len(pairing.differences) < FEWEST_SEEDS:
        return None
    rounding = _ROUNDING * max(map(abs, (*pairing.values, *pairing.baseline_values)))
    if _spread(pairing.differences) > rounding:
        return None
    return ConstantDifference(seeds_differ=_spread(pairing.baseline_values) > rounding)


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)
