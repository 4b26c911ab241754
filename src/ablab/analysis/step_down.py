"""One level for many comparisons, each of which may claim two things: step down over all of their p values.

A comparison has two null hypotheses, of which at most one is true: that there is no effect and, where a margin is
declared, that the effect is the margin or more. Both are tested at the comparison's share of the level, which is its
weight over the weight of the comparisons of which a hypothesis may still be true: of those not all of whose hypotheses
are rejected. What is resolved hands its weight on. Without a margin and with equal weights this is Holm's method.

Why any false claim has at most the probability of the level: at the first false rejection no true hypothesis has been
rejected, so that every comparison with a true one still counts. It was therefore made at no more than that
comparison's share among those, and the shares add up to the level.

Sources: Holm (1979), "A simple sequentially rejective multiple test procedure", with weights; Shaffer (1986),
"Modified sequentially rejective multiple test procedures", for hypotheses that cannot all be true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PValues:
    """The p values of one comparison."""

    difference: float  # of "there is no effect", or of the first of two others that cannot both be true
    equivalence: float | None = None  # of "the effect is the margin or more", or the second; None without


def step_down(raw: Sequence[PValues], weights: Sequence[float], reserved: float = 0.0) -> list[PValues]:
    """The p values of each comparison, adjusted so that each may be held against the level of all of them.

    Args:
        raw: not adjusted.
        weights: of the comparisons, on any scale.
        reserved: weight on the same scale that others hold, whose claims are made elsewhere.
    """
    tests = [(p.difference / weight, place, False) for place, (p, weight) in enumerate(zip(raw, weights, strict=True))]
    tests += [
        (p.equivalence / weight, place, True)
        for place, (p, weight) in enumerate(zip(raw, weights, strict=True))
        if p.equivalence is not None
    ]
    open_tests = [1 if p.equivalence is None else 2 for p in raw]
    adjusted: dict[tuple[int, bool], float] = {}
    total, largest = reserved + sum(weights), 0.0
    for relative, place, of_margin in sorted(tests):
        largest = max(largest, min(1.0, total * relative))
        adjusted[place, of_margin] = largest
        open_tests[place] -= 1
        if not open_tests[place]:
            total -= weights[place]
    return [PValues(adjusted[place, False], adjusted.get((place, True))) for place in range(len(raw))]
