"""What choosing a rate adds to the noise of an effect: the interval holds for tuning and comparing, done anew.

The effect of a tuned study is the mean difference between variant and baseline, *each at the settings that a tuning
like this one chooses for it*: over evaluation seeds and over tuning seeds. The choice is by the means over a few tuning
seeds; repeated, it would fall on other settings now and then, with other true means. Let f be the response of one side,
its true mean at each point that was tried, j the point that was chosen, and J the one that another tuning would choose.
What the choice has added to the effect is f(j) - E f(J), with a variance over tunings of its own, and the standard
error of the effect is

    SE^2 = (sd of paired differences)^2 / seeds + E[(r_variant - r_baseline)^2],   r = f(j) - E f(J)

where the expectation is over f as the tuning runs leave it known. It is 0 where the choice is certain, since the curve
is steep, and where it does not matter, since the curve is flat.

f given the tuning runs: its differences from a constant in an orthonormal basis, first the smooth ones (linear and
quadratic in each key, in its logarithm where all values are positive), then the rest; each kind has a normal prior
around 0 whose variance is what the two sides' own coefficients show beyond their noise. So a response that is flat but
for noise is taken as flat (the plain plug-in of the means takes it for a rough one, and its intervals held the effect
in .99 of studies). The noise of a single run, without what runs of one seed share, is pooled: the residuals of the
tuning runs (seed plus point), and half of the variance of the paired differences.

95% intervals that hold the effect, by simulation of whole studies: `experiments/tuning`, and `tests/analysis`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from statistics import fmean

import numpy as np
from scipy import special

from ablab.analysis.estimates import FloatArray, variance_of
from ablab.analysis.responses import Response, residual_squares, response
from ablab.analysis.tuned import tuning_of
from ablab.results.record import Cost, Record

_RESPONSES, _TUNINGS = 300, 100  # that are drawn
_DEGREES = 4  # of freedom of the error of a choice, for each tuning seed but one
_BEYOND = 8.0  # standard errors of the difference of two points
COSTS = {each.name for each in fields(Cost)}  # that no rate changes


def choice_of(
    sides: Sequence[tuple[float, Sequence[Record]]], metric: str, differences: Sequence[float]
) -> float | None:
    """The standard error that choosing adds to an effect; None where nothing was tuned, or it cannot be known.

    Args:
        sides: what each is multiplied by in the effect, and its runs.
        differences: the effect of each seed.
    """
    if metric in COSTS:
        return None
    parts: list[tuple[float, Response]] = []
    alike = True
    for factor, records in sides:
        tunings = [tuned for record in records if (tuned := tuning_of(record)) and tuned.settings]
        for tuned in {each.told: each for each in tunings}.values():
            found = response(tuned, metric)
            if found is None:
                return None
            share = sum(each.told == tuned.told for each in tunings) / len(records)
            parts.append((factor * share, found))
            alike = alike and tuned.max_steps is None
    if not parts:
        return None
    return choice_error(parts, differences if alike else (), sum(factor**2 for factor, _ in sides))


def choice_error(
    parts: Sequence[tuple[float, Response]], differences: Sequence[float] = (), coefficients: float = 2.0
) -> float:
    """The standard error that choosing adds to a sum of sides.

    Args:
        parts: the sides that were tuned, each with what it is multiplied by.
        differences: of the effect by seed, where they are of runs like the tuning runs: they tell their noise, too.
        coefficients: the sum of the squares of what all sides are multiplied by, tuned or not.
    """
    known = _Noise()
    if len(differences) > 1 and (variance := variance_of(differences)):  # ties say nothing of it
        degrees = len(differences) - 1
        known = _Noise(variance * degrees / coefficients, degrees)
    sides = _in_question([side for _, side in parts], known)
    noise = known.with_runs(side.values for side in sides)
    if not noise.variance > 0:
        return 0.0
    prior = _prior(sides, noise.variance)
    moments = [_moments(side, noise.variance, prior) for side in sides]
    factors = [factor for factor, _ in parts]
    centre = sum(factor * mean for factor, (mean, _) in zip(factors, moments, strict=True))
    spread = sum(factor**2 * spread for factor, (_, spread) in zip(factors, moments, strict=True))
    return math.sqrt(centre**2 + spread) * _widened(sides, len(differences) - 1)


def joint(choices: Sequence[float | None], tunings: Sequence[frozenset[str]]) -> FloatArray:
    """The covariance of what choosing adds to several effects, 0 where nothing was tuned.

    Effects that were each tuned by themselves have errors of their own. One tuning that serves several, as that of a
    ladder's smallest size does, is off for all of them at once, in the same direction.

    Args:
        choices: the standard error of each.
        tunings: behind each.
    """
    errors = np.array([choice or 0.0 for choice in choices])
    same = [
        [place == other or own == theirs for other, theirs in enumerate(tunings)] for place, own in enumerate(tunings)
    ]
    return np.asarray(np.outer(errors, errors) * np.array(same))


def _widened(sides: Sequence[Response], degrees: int) -> float:
    """By what an error that few tuning seeds tell is larger, for a t with the degrees of freedom of many seeds.

    Without it intervals of 20 seeds beside 2 tuning seeds held .89, since what is left of their error is the choice's.
    """
    few = _DEGREES * max(1, min(len(side.values) for side in sides) - 1)
    return float(special.stdtrit(few, 0.975) / special.stdtrit(degrees, 0.975)) if degrees > few else 1.0


@dataclass(frozen=True)
class _Noise:
    """The variance of a run's own part, as far as it is known."""

    squares: float = 0.0
    degrees: int = 0

    @property
    def variance(self) -> float:
        return self.squares / self.degrees if self.degrees else 0.0

    def with_runs(self, tables: Iterable[FloatArray]) -> _Noise:
        """With the residuals of tuning runs, [tuning seed, point]."""
        squares, degrees = self.squares, self.degrees
        for table in tables:
            squares += residual_squares(table)
            degrees += (table.shape[0] - 1) * (table.shape[1] - 1)
        return _Noise(squares, degrees)


def _in_question(sides: Sequence[Response], known: _Noise) -> list[Response]:
    """The sides at those points that another tuning might have chosen.

    What lies `_BEYOND` standard errors behind the best will not be, and says nothing of the noise among the others: a
    run at a rate that is far too large is worse by far, and by far another amount each time.
    """
    start = known if all(side.of_itself for side in sides) else _Noise()
    kept = [_best(side, 1 if start.degrees else 2) for side in sides]
    while True:
        noise = start.with_runs(side.scores[:, places] for side, places in zip(sides, kept, strict=True))
        near = [_near(side, noise.variance) for side in sides]
        wider = [sorted({*old, *new}) for old, new in zip(kept, near, strict=True)]
        if wider == kept:
            return [side.at(places) for side, places in zip(sides, kept, strict=True)]
        kept = wider


def _best(side: Response, count: int) -> list[int]:
    others = [place for place in np.argsort(side.scores.mean(0), kind="stable").tolist() if place != side.chosen]
    return sorted([side.chosen, *others[: count - 1]])


def _near(side: Response, variance: float) -> list[int]:
    behind = side.scores.mean(0) - side.scores.mean(0)[side.chosen]
    return [*np.flatnonzero(behind <= _BEYOND * math.sqrt(2 * variance / len(side.scores))).tolist()]


def _prior(sides: Sequence[Response], variance: float) -> tuple[float, float]:
    """The variances of the smooth coefficients and of the rest, beyond the noise of their means."""
    smooth: list[float] = []
    rest: list[float] = []
    for side in sides:
        basis, count = side.basis
        beyond = (side.values.mean(0) @ basis) ** 2 - variance / len(side.values)
        smooth += beyond[1 : 1 + count].tolist()
        rest += beyond[1 + count :].tolist()
    return max(0.0, fmean(smooth or [0.0])), max(0.0, fmean(rest or [0.0]))


def _moments(side: Response, variance: float, prior: tuple[float, float]) -> tuple[float, float]:
    """The mean and the variance of f(j) - E f(J) over what f may be."""
    if len(side.points) < 2:
        return 0.0, 0.0
    found = _drawn(side.values.mean(0), side, variance / len(side.values), prior)
    if side.of_itself:
        scores, of_score = np.sign((side.scores * side.values).sum()) * found, variance / len(side.values)
    else:
        decided = replace(side, values=side.scores)
        of_one = residual_squares(side.scores) / side.degrees
        of_score = of_one / len(side.scores)
        scores = _drawn(side.scores.mean(0), decided, of_score, _prior([decided], of_one))
    shaken = _deviates(_TUNINGS, len(side.points), 1) * math.sqrt(of_score)
    regret = found[:, side.chosen] - _of_the_best(found, scores, shaken).mean(1)
    return float(regret.mean()), float(regret.var())


def _of_the_best(found: FloatArray, scores: FloatArray, shaken: FloatArray) -> FloatArray:
    """The value at the point with the least score, [response, tuning], of equal ones the first."""
    least = scores[:, :1] + shaken[:, 0]
    value = np.broadcast_to(found[:, :1], least.shape)
    for point in range(1, found.shape[1]):  # which are few
        score = scores[:, point, None] + shaken[:, point]
        value = np.where(score < least, found[:, point, None], value)
        least = np.minimum(least, score)
    return np.asarray(value)


def _drawn(means: FloatArray, side: Response, of_mean: float, prior: tuple[float, float]) -> FloatArray:
    """Responses that the tuning runs leave possible, [response, point]."""
    basis, smooth = side.basis
    variances = np.full(len(means), prior[1])
    variances[1 : 1 + smooth] = prior[0]
    share = variances / (variances + of_mean)
    share[0] = 1.0  # nothing is known of the level beforehand
    drawn = share * (means @ basis) + np.sqrt(share * of_mean) * _deviates(_RESPONSES, len(means), 0)
    return np.asarray(drawn @ basis.T)


@lru_cache(maxsize=64)
def _deviates(count: int, points: int, stream: int) -> FloatArray:
    """Standard deviates, the same at every call and in every version of numpy: the same records, the same interval."""
    return np.random.RandomState(stream).standard_normal((count, points))
