"""Did the two of each pair cost the same: parameters, FLOPs, tokens, time, and the budget that was declared?"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from ablab.analysis.notes import MatchedBudget, UnequalCost
from ablab.results.record import Record

EQUAL_BUDGET = 0.02  # as declared by budget.match
EQUAL_FLOPS = 0.02  # a relative difference up to this counts as equal compute
EQUAL_SIZE = 0.05  # of the parameters; up to this the difference is said, and the two stay comparable
EQUAL_SPEED = 0.05  # a relative difference up to this counts as the noise of timing

Pairs = list[tuple[Record, Record]]
Measure = Callable[[Record], float | None]


def relative_difference(pairs: Pairs, measure: Measure) -> float | None:
    """(variant - baseline) / baseline of the means over the pairs that have both; None if there are none."""
    both = [(own, base) for own, base in ((measure(a), measure(b)) for a, b in pairs) if own is not None and base]
    if not both:
        return None
    own, base = (fmean(column) for column in zip(*both, strict=True))
    return (own - base) / base


def flops_difference(pairs: Pairs) -> float | None:
    """Relative; of one step where those of the whole training are not known."""
    difference = relative_difference(pairs, lambda record: record.cost.flops_total)
    return relative_difference(pairs, lambda record: record.cost.flops_per_step) if difference is None else difference


def at_equal_time(pairs: Pairs) -> bool:
    """Whether the variant had a budget of time in each of its runs, and kept it."""
    budgets = [own.budget for own, _ in pairs]
    difference = relative_difference(pairs, _MATCHED["time"][1])
    given = all(budget is not None and budget.get("match") == "time" for budget in budgets)
    return given and difference is not None and difference <= EQUAL_SPEED


_MATCHED: dict[str, tuple[str, Measure]] = {
    "params": ("parameters", lambda record: record.cost.parameters),
    "active_params": ("active parameters", lambda record: record.cost.active_parameters),
    "flops": ("FLOPs", lambda record: record.cost.flops_total),
    "tokens": ("tokens", lambda record: record.cost.tokens),
    "time": ("training time", lambda record: record.cost.train_time_s),
    "kv": ("bytes of cache", lambda record: (record.budget or {}).get("value")),
    "decode_flops": ("FLOPs of a token", lambda record: (record.budget or {}).get("value")),
}


def matched_budget(pairs: Pairs) -> MatchedBudget | None:
    """Whether a declared budget was kept, from what the runs came to."""
    matches = {own.budget.get("match") for own, _ in pairs if own.budget}
    if len(matches) != 1 or (match := matches.pop()) not in _MATCHED:
        return None
    name, measure = _MATCHED[match]
    difference = relative_difference(pairs, measure)
    return None if difference is None else MatchedBudget(name, difference, kept=abs(difference) <= EQUAL_BUDGET)


def unequal_flops(pairs: Pairs) -> UnequalCost | None:
    difference = flops_difference(pairs)
    if difference is None or abs(difference) <= EQUAL_FLOPS:
        return None
    return UnequalCost("FLOPs", difference, comparable=False)


def unequal_parameters(pairs: Pairs) -> UnequalCost | None:
    difference = relative_difference(pairs, lambda record: record.cost.parameters)
    if not difference:
        return None
    if abs(difference) <= EQUAL_SIZE:
        return UnequalCost("parameters", difference, comparable=True)
    active = _active_difference(pairs)
    equal = active is not None and abs(active) <= EQUAL_SIZE
    return UnequalCost("parameters", difference, comparable=False, active=active if equal else None)


def unequal_active_parameters(pairs: Pairs) -> UnequalCost | None:
    """Unless `unequal_parameters` says it."""
    difference = _active_difference(pairs)
    if not difference or ((total := unequal_parameters(pairs)) and total.active is not None):
        return None
    return UnequalCost("active parameters", difference, comparable=abs(difference) <= EQUAL_SIZE)


def _active_difference(pairs: Pairs) -> float | None:
    """Where some of the parameters are inactive; else they differ as all of them do."""
    if all(record.cost.active_parameters == record.cost.parameters for pair in pairs for record in pair):
        return None
    return relative_difference(pairs, lambda record: record.cost.active_parameters)


def unequal_tokens(pairs: Pairs) -> UnequalCost | None:
    difference = relative_difference(pairs, lambda record: record.cost.tokens)
    return UnequalCost("tokens", difference, comparable=True) if difference else None
