"""What a ladder says of each variant at ten times its largest compute: HOLDS, FADES, REVERSES or UNKNOWN.

Three effects of the same forecast count: at the smallest compute (first), at the largest (now) and beyond (then).

* HOLDS: the sign then is resolved, and is that of now, which is resolved, too.
* FADES: the effect now is resolved, and then less than half of it is left, in either direction.
* REVERSES: the sign then is resolved, and contrary to that of now, or of first where now is between.
* UNKNOWN: none of these is shown.

A p value of a sign is that of the forecast, two-sided; a verdict that needs two signs has the larger of the two p. The
sign then has to be that of a straight line through the effects as well, unless they are shown to lie on none, whose p
(one-sided) may be the larger, and the interval of the forecast has to lie on one side of 0: what is believed of effects
beforehand decides nothing alone.

All comparisons of all ladders of a study are one family of their own. HOLDS and REVERSES are two claims of a
comparison, and p values step down over all of them (`ablab.analysis.step_down`): the probability that any HOLDS or
REVERSES is false is the level at most. So it is, by Holm's method, of FADES by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL, holm
from ablab.analysis.over_scale.forecast import Forecast
from ablab.analysis.over_scale.ladders import Climb, Rung
from ablab.analysis.step_down import PValues, step_down

FEWEST_RUNGS = 3  # sizes that an extrapolation needs
KEPT = 0.5  # of the effect: below, it has faded


class ScaleVerdict(StrEnum):
    HOLDS = "HOLDS"
    FADES = "FADES"
    REVERSES = "REVERSES"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class Missing:
    """Why nothing can be said beyond the sizes that were run."""

    rungs: int | None = None  # how many there are, of different compute, where they are too few
    seeds: int | None = None  # the fewest pairs of a size, where they are too few
    diverged: tuple[str, int, int] | None = (
        None  # the size, how many, of how many runs: no less often than the baseline
    )
    same: bool = False  # it never differed from the baseline
    largest: str | None = None  # the largest size of the ladder, where it has too few pairs there


@dataclass(frozen=True)
class Claims:
    """The p values of one comparison, before the others are considered."""

    holds: float
    reverses: float
    fades: float

    @classmethod
    def of(cls, seen: Forecast) -> Claims:
        first, now, then = (seen.sign_p(*place) for place in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
        signs = [seen.effects[place] > 0 for place in range(3)]
        then = max(then, seen.line_p) if seen.clear else 1.0
        kept = max(now, then) if signs[1] == signs[2] else 1.0
        against = [p for p, sign in ((first, signs[0]), (now, signs[1])) if sign != signs[2]]
        return cls(kept, max(min(against), then) if against else 1.0, max(now, _left(seen)))


def _left(seen: Forecast) -> float:
    """The probability that half of the effect now is left then, or more than that in the other direction."""
    up = 1 if seen.now > 0 else -1
    more = 1 - seen.below((0, -KEPT * up, up))
    return more + seen.below((0, KEPT * up, up))


def usable(climb: Climb) -> Climb:
    """The sizes of a climb with pairs enough."""
    return climb.only([len(item.differences) >= FEWEST_SEEDS for item in climb.items])


def obstacle(climb: Climb, largest: Rung) -> Missing | None:
    """What a forecast to ten times the largest size lacks; None where nothing does."""
    if climb.unstable:
        return Missing(diverged=climb.unstable)
    if len(set(climb.compute)) < FEWEST_RUNGS:
        return Missing(rungs=len(set(climb.compute)))
    if len(set(usable(climb).compute)) < FEWEST_RUNGS:
        return Missing(seeds=min(len(item.differences) for item in climb.items))
    if usable(climb).rungs[-1] != largest:
        return Missing(largest=largest.name)
    if not any(any(item.differences) for item in climb.items):
        return Missing(same=True)
    return None


def judge(claims: Sequence[Claims], level: float = LEVEL) -> list[tuple[ScaleVerdict, float, float]]:
    """(verdict, p of the sign, p of fading) of each comparison, the p values adjusted for all of them.

    The p of the sign is that of HOLDS or REVERSES where one of them is said, and else the smaller of the two.

    Args:
        level: of each of the two families.
    """
    signs = step_down([PValues(each.holds, each.reverses) for each in claims], [1.0] * len(claims))
    fades = holm([each.fades for each in claims])
    return [(*_verdict(sign, fade, level), fade) for sign, fade in zip(signs, fades, strict=True)]


def _verdict(sign: PValues, fade: float, level: float) -> tuple[ScaleVerdict, float]:
    """The verdict and the p of the sign."""
    holds, reverses = sign.difference, sign.equivalence
    assert reverses is not None
    if fade < level:
        return ScaleVerdict.FADES, min(holds, reverses)
    if holds < level:
        return ScaleVerdict.HOLDS, holds
    if reverses < level:
        return ScaleVerdict.REVERSES, reverses
    return ScaleVerdict.UNKNOWN, min(holds, reverses)
