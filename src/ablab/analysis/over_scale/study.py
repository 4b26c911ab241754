"""Every ladder of a study: effects and gains at each size, a forecast, a verdict, and the largest size as a test of it.

The largest size is a test: forecast from all smaller ones alone, its effect has to lie in the interval in `COVERAGE` of
the comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import stats

from ablab.analysis.comparison import Comparisons
from ablab.analysis.estimates import LEVEL, Interval
from ablab.analysis.over_scale.curve import Curve
from ablab.analysis.over_scale.forecast import COVERAGE, TENFOLD, Forecast, forecast
from ablab.analysis.over_scale.gain import Gains, GainsOf
from ablab.analysis.over_scale.ladders import Climb, Ladder, ladders_of
from ablab.analysis.over_scale.seen import Seen
from ablab.analysis.over_scale.verdicts import FEWEST_RUNGS, Claims, Missing, ScaleVerdict, judge, obstacle, usable
from ablab.results.collect import Runs

_STEPS = 5  # at which a forecast is drawn


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The effect at the largest size, and what the smaller ones foresaw."""

    rung: str
    times: float  # its compute over that of the largest of the others
    foreseen: float
    interval: Interval  # of an effect measured on as many seeds, with `COVERAGE`
    measured: float

    @property
    def inside(self) -> bool:
        return self.interval[0] <= self.measured <= self.interval[1]


@dataclass(frozen=True, kw_only=True)
class OverScale:
    """One variant on one ladder."""

    task: str
    metric: str
    climb: Climb
    gains: Gains | None  # None where the baseline has no law
    law: Curve | None  # the variant's own
    forecast: Forecast | None  # at ten times the largest compute; None where something is missing
    missing: Missing | None
    held_out: HeldOut | None  # None with too few sizes
    verdict: ScaleVerdict = ScaleVerdict.UNKNOWN
    p_sign: float | None = None  # of HOLDS or REVERSES, adjusted
    p_fade: float | None = None  # of FADES, adjusted

    @property
    def variant(self) -> str:
        return self.climb.variant

    @cached_property
    def seen(self) -> Seen:
        """The effects that a forecast rests on."""
        return seen_of(usable(self.climb))

    def ahead(self) -> list[tuple[float, float, Interval]]:
        """(FLOPs, effect, interval) from the largest size to ten times its compute; nothing without a forecast."""
        if self.forecast is None:
            return []
        steps = np.linspace(self.seen.x[-1], self.forecast.x, _STEPS)
        found = [forecast(self.seen, float(x)) for x in steps]
        return [(math.exp(each.x), each.then, each.interval()) for each in found]

    @cached_property
    def interval(self) -> Interval | None:
        """Of the effect at ten times the compute, as it would be measured on as many seeds, with `COVERAGE`."""
        return self.forecast.interval() if self.forecast else None


@dataclass(frozen=True, kw_only=True)
class LadderFindings:
    """A ladder, its baseline's law, and every variant on it."""

    ladder: Ladder
    law: Curve | None
    items: tuple[OverScale, ...]
    level: float = LEVEL  # of the intervals of gains

    def shown(self, variants: Collection[str]) -> LadderFindings:
        """With these variants alone; what is said of them stays corrected for all."""
        return replace(self, items=tuple(item for item in self.items if item.variant in variants))


@dataclass(frozen=True)
class Coverage:
    """Of how many held-out effects the interval had them."""

    inside: int
    count: int

    @property
    def interval(self) -> Interval:
        """Clopper and Pearson's, 95%."""
        found = stats.binomtest(self.inside, self.count).proportion_ci(1 - LEVEL, method="exact")
        return float(found.low), float(found.high)


def over_scale(runs: Runs, comparisons: Comparisons) -> tuple[LadderFindings, ...]:
    """What every ladder among the runs says, in the order of the plan; nothing where there is none.

    Nor where each variant is compared with the one before it: a gain is that over one baseline at all sizes.
    """
    if comparisons.baselines.steps:
        return ()
    ladders = ladders_of(runs, comparisons.baseline, comparisons.items, comparisons.metrics, comparisons.last_k)
    made = [_findings(ladder, comparisons.level) for ladder in ladders]
    claims = [Claims.of(item.forecast) for each in made for item in each.items if item.forecast]
    judged = iter(judge(claims, comparisons.level))
    return tuple(
        replace(each, items=tuple(_judged(item, next(judged)) if item.forecast else item for item in each.items))
        for each in made
    )


def coverage(found: Sequence[LadderFindings]) -> Coverage | None:
    """None where no size could be held out."""
    tests = [item.held_out for each in found for item in each.items if item.held_out]
    return Coverage(sum(test.inside for test in tests), len(tests)) if tests else None


def _judged(item: OverScale, found: tuple[ScaleVerdict, float, float]) -> OverScale:
    verdict, sign, fade = found
    return replace(item, verdict=verdict, p_sign=sign, p_fade=fade)


def _findings(ladder: Ladder, level: float) -> LadderFindings:
    gains = GainsOf(ladder, level)
    return LadderFindings(
        ladder=ladder,
        law=gains.curve,
        items=tuple(_item(ladder, gains, climb) for climb in ladder.climbs),
        level=level,
    )


def _item(ladder: Ladder, gains: GainsOf, climb: Climb) -> OverScale:
    missing, enough = obstacle(climb, ladder.rungs[-1]), usable(climb)
    whole = None if missing else seen_of(enough)
    target = math.log(ladder.rungs[-1].flops) + TENFOLD
    return OverScale(
        task=ladder.task,
        metric=ladder.metric,
        climb=climb,
        gains=gains.of(climb),
        law=gains.law_of(climb.variant),
        forecast=forecast(whole, target) if whole else None,
        missing=missing,
        held_out=hold_out(enough) if whole else None,
    )


def seen_of(climb: Climb) -> Seen:
    """The effects of a climb as a forecast takes them."""
    x, choice = [math.log(flops) for flops in climb.compute], climb.choice
    return Seen.of(x, climb.differences, choice, 0.0 if climb.tuned_at_once else float(choice[-1, -1]))


def hold_out(climb: Climb) -> HeldOut | None:
    """Forecast the largest size from the others; None where these are too few, or show no difference."""
    if len(climb.rungs) <= FEWEST_RUNGS or not any(map(any, climb.differences[:-1])):
        return None
    whole = seen_of(climb)
    if climb.tuned_at_once:  # an error of the choice is then in what is measured as it is in what is foreseen
        whole = replace(whole, choice=None)
    foreseen = forecast(whole.without_last(), float(whole.x[-1]), float(whole.counts[-1]))
    return HeldOut(
        rung=climb.rungs[-1].name,
        times=math.exp(whole.x[-1] - whole.x[-2]),
        foreseen=foreseen.then,
        interval=foreseen.interval(COVERAGE),
        measured=float(whole.effects[-1]),
    )
