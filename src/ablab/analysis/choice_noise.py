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
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from ablab.analysis.estimates import FloatArray
from ablab.analysis.tuned import Tuned, is_number, tuning_of
from ablab.results.record import Cost, Record

_RESPONSES, _TUNINGS = 300, 100  # that are drawn
_DEPENDENT = 1e-6  # of a direction that is left when the others are taken away: less is nothing
COSTS = {each.name for each in fields(Cost)}  # that no rate changes


@dataclass(frozen=True)
class Response:
    """The tuning runs of one side, as far as they all ended well."""

    values: FloatArray  # [tuning seed, point], of the metric that is compared
    scores: FloatArray  # the same of the metric that decided, less is better
    basis: FloatArray  # [point, direction], orthonormal: constant, smooth ones, rest
    smooth: int  # directions
    chosen: int  # point

    @property
    def degrees(self) -> int:
        return (self.values.shape[0] - 1) * (self.values.shape[1] - 1)

    @property
    def squares(self) -> float:
        """The sum of squared residuals from seed plus point."""
        rest = self.values - self.values.mean(0) - self.values.mean(1)[:, None] + self.values.mean()
        return float((rest**2).sum())


def response(tuned: Tuned, metric: str) -> Response | None:
    """The response of a side; None where fewer than two points or seeds say something of the metric."""
    places, chosen = tuned.complete(metric), tuned.chosen
    if chosen not in places or len(places) < 2 or len(tuned.seeds) < 2:
        return None
    values = np.array([tuned.values(place, metric) for place in places], dtype=float).T
    decided = np.array([tuned.values(place, tuned.metric or metric) for place in places], dtype=float).T
    basis, smooth = _basis([dict(tuned.points[place][0]) for place in places])
    return Response(values, tuned.sign * decided, basis, smooth, places.index(chosen))


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
    if not parts:
        return 0.0
    degrees = sum(side.degrees for _, side in parts)
    squares = sum(side.squares for _, side in parts)
    if len(differences) > 1:
        degrees += len(differences) - 1
        squares += float(np.var(differences, ddof=1)) * (len(differences) - 1) / coefficients
    noise = squares / degrees
    if noise <= 0:
        return 0.0
    prior = _prior([side for _, side in parts], noise)
    moments = [(factor, *_moments(side, noise, prior)) for factor, side in parts]
    centre = sum(factor * mean for factor, mean, _ in moments)
    return math.sqrt(centre**2 + sum(factor**2 * variance for factor, _, variance in moments))


def _prior(sides: Sequence[Response], noise: float) -> tuple[float, float]:
    """The variances of the smooth coefficients and of the rest, beyond the noise of their means."""
    smooth, rest = [], []
    for side in sides:
        beyond = (side.values.mean(0) @ side.basis) ** 2 - noise / len(side.values)
        smooth += beyond[1 : 1 + side.smooth].tolist()
        rest += beyond[1 + side.smooth :].tolist()
    kinds = (max(0.0, float(np.mean(kind))) if kind else 0.0 for kind in (smooth, rest))
    first, second = kinds
    return first, second


def _moments(side: Response, noise: float, prior: tuple[float, float]) -> tuple[float, float]:
    """The mean and the variance of f(j) - E f(J) over what f may be."""
    of_mean = noise / len(side.values)
    found = _drawn(side.values.mean(0), side, of_mean, prior)
    scores, of_score = found, of_mean
    if side.scores is not side.values and not np.array_equal(side.scores, side.values):
        own = side.scores - side.scores.mean(0) - side.scores.mean(1)[:, None] + side.scores.mean()
        of_score = float((own**2).sum()) / side.degrees / len(side.scores)
        scores = _drawn(side.scores.mean(0), side, of_score, _prior_of_scores(side, of_score))
    shaken = _deviates(_TUNINGS, side.values.shape[1], 1) * math.sqrt(of_score)
    expected = _of_the_best(found, scores, shaken).mean(1)
    regret = found[:, side.chosen] - expected
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


def _prior_of_scores(side: Response, of_mean: float) -> tuple[float, float]:
    beyond = (side.scores.mean(0) @ side.basis) ** 2 - of_mean
    smooth, rest = beyond[1 : 1 + side.smooth], beyond[1 + side.smooth :]
    return max(0.0, float(smooth.mean())), max(0.0, float(rest.mean())) if len(rest) else 0.0


def _drawn(means: FloatArray, side: Response, of_mean: float, prior: tuple[float, float]) -> FloatArray:
    """Responses that the tuning runs leave possible, [response, point]."""
    variances = np.full(len(means), prior[1])
    variances[1 : 1 + side.smooth] = prior[0]
    share = variances / (variances + of_mean)
    share[0] = 1.0  # nothing is known of the level beforehand
    centre = share * (means @ side.basis)
    drawn = centre + np.sqrt(share * of_mean) * _deviates(_RESPONSES, len(means), 0)
    return np.asarray(drawn @ side.basis.T)


@lru_cache(maxsize=64)
def _deviates(count: int, points: int, stream: int) -> FloatArray:
    """Standard deviates, the same at every call and in every version of numpy: the same records, the same interval."""
    return np.random.RandomState(stream).standard_normal((count, points))


def _basis(points: Sequence[dict[str, object]]) -> tuple[FloatArray, int]:
    """An orthonormal basis of responses at these points, and how many of its directions are smooth ones."""
    columns = [np.ones(len(points))]
    for key in points[0]:
        column = _scaled([point[key] for point in points])
        columns += [] if column is None else [column, column**2]
    found: list[FloatArray] = []
    smooth = 0
    for place, column in enumerate([*columns, *np.eye(len(points))]):
        rest = column - sum((column @ known * known for known in found), np.zeros(len(points)))
        size = float(np.linalg.norm(rest))
        if len(found) < len(points) and size > _DEPENDENT * float(np.linalg.norm(column)):
            found.append(rest / size)
        if place < len(columns):
            smooth = len(found) - 1
    return np.stack(found, 1), smooth


def _scaled(values: Sequence[object]) -> FloatArray | None:
    """The values of a key between -1 and 1, by their logarithms where all are positive; None for words."""
    if not all(map(is_number, values)):
        return None
    numbers = np.array(values, dtype=float)
    numbers = np.log(numbers) if (numbers > 0).all() else numbers
    spread = float(np.ptp(numbers))
    return (2 * (numbers - numbers.min()) / spread - 1) if spread else None
