"""Evidence on one comparison before the others are considered.

Did the swap change the model? Decided from the responses to fixed inputs: those of the components that differ, and
those of the model as a whole, before and in the first step of its training.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

from ablab.analysis import conditions
from ablab.analysis.choice_noise import choice_of
from ablab.analysis.estimates import FEWEST_SEEDS, correlation
from ablab.analysis.looks import Looks
from ablab.analysis.notes import ConstantDifference
from ablab.analysis.pairing import Outcome, Pairing, choices, label
from ablab.analysis.verdicts import Evidence
from ablab.config.axes import AXES
from ablab.config.identity import IDENTITY_EXCLUDES
from ablab.results.collect import Runs
from ablab.results.evaluation import AT
from ablab.results.record import FUNCTION, Direction, Record

GOVERNED = tuple(axis.name for axis in AXES.values() if axis.governs)  # axes whose effect is probed
_BESIDES = {"seed", "axes", "overrides", *IDENTITY_EXCLUDES}  # keys of a config that are no component
_ROUNDING = 4 * sys.float_info.epsilon  # of the difference of two values: less than this of the larger is none
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6  # of single precision's rounding
Responses = Mapping[str, list[float]]
_SINGLE = 1e-6  # the same of a whole vector: a few times that of each of its numbers


def evidence_of(runs: Runs, pairing: Pairing, direction: Direction, margin: float | None, looks: Looks) -> Evidence:
    """The evidence on the variant of `pairing`, without what depends on how many comparisons there are."""
    blocked = conditions.other_corpus(pairing)
    looks = looks.until(pairing.seeds)
    identical = _identical(pairing)
    same = unchanged(pairing) if identical or _told_by_responses(pairing) else ()
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
        choice=choice_of(_sides(pairing), pairing.metric, pairing.differences),
    )


def _sides(pairing: Pairing) -> list[tuple[float, list[Record]]]:
    """The runs of the complete pairs, with their sign in the effect."""
    own, base = (list(side) for side in zip(*pairing.pairs, strict=True)) if pairing.pairs else ([], [])
    return [(1.0, own), (-1.0, base)]


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
    return _of_quality(pairing) and all(
        own.measured[metric] == base.measured[metric] and same_run(own, base) for own, base in pairing.pairs
    )


def same_run(own: Record, base: Record) -> bool:
    """Whether two runs have the same metrics to the last bit, from models of one size and function, if known."""
    equal = own.metrics == base.metrics and own.cost.parameters == base.cost.parameters
    return equal and _same_function(own, base) is not False


def _of_quality(pairing: Pairing) -> bool:
    sides = [record for pair in pairing.pairs for record in pair]
    return bool(sides) and all(pairing.metric in record.measured for record in sides)


def _told_by_responses(pairing: Pairing) -> bool:
    """Whether equal responses mean that metrics are equal but for rounding.

    Components may be alike on the lengths of the training, by which they are probed, and not on longer ones. Records of
    earlier versions know the components alone, and are asked where metrics of equal computations are unequal anyway.
    """
    known = all(_function(record.responses) is not None for pair in pairing.pairs for record in pair)
    return _of_quality(pairing) and AT not in pairing.metric and (known or sums_vary(pairing))


def unchanged(pairing: Pairing) -> tuple[str, ...]:
    """The axes that the two differ in by their configs and not by what they did, if those are all; else empty."""
    found: set[str] = set()
    for own, base in pairing.pairs:
        axes = _differing(own, base)
        if not axes or not axes <= set(GOVERNED) or own.cost.parameters != base.cost.parameters:
            return ()
        if not all(_same(own, base, axis) for axis in axes) or _same_function(own, base) is False:
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


def _same_function(own: Record, base: Record) -> bool | None:
    """Whether the models as a whole are equal, and their first steps; None where neither record tells.

    A record that says it was not asked is equal to none.
    """
    return same_function(own.responses, base.responses)


def same_function(own: Responses, base: Responses) -> bool | None:
    """The same of the responses of two models, as records have them."""
    mine, theirs = _function(own), _function(base)
    if mine is None and theirs is None:
        return None
    return bool(mine and theirs) and all(map(_equal_to_rounding, mine or [], theirs or []))


def _function(responses: Responses) -> list[list[float]] | None:
    """The responses of the model as a whole; none where it was not asked, None of an earlier version."""
    told = [responses[name] for name in FUNCTION if name in responses]
    return (told if all(told) else []) if len(told) == len(FUNCTION) else None


def _equal_to_rounding(one: list[float], other: list[float]) -> bool:
    """Whether two vectors, each told by its size and by projections, are equal but for single precision's rounding."""
    most = _SINGLE * max(one[0], other[0])
    return len(one) == len(other) and all(abs(a - b) <= most for a, b in zip(one, other, strict=True))


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
