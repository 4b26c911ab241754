"""The paired effect beyond the largest size: a forecast with an interval, from effects at several sizes.

An effect at compute C is taken for one of several forms of x = log(C / largest C), and a walk beside it:

    effect(x) = a                    it stays
    effect(x) = a exp(-beta x)       it shrinks by a power of compute, as a loss above its floor does
    effect(x) = a + b exp(-0.6 x)    it settles: small models are odd
    effect(x) = a + b x              it changes by as much with each tenfold compute
    ... + w(x)                       a Brownian walk that is 0 at the largest size: what no form has foreseen

Each form with each size of walk is weighed by how probable it makes the effects that were seen (Bayesian model
averaging; Hoeting et al. 1999). The level a may be anything, a tenfold compute is thought to change the effect by about
as much as effects are, oddness to be as large as they are, and the walk to move by a third of that: under such
numbers 88 effects of trained models, each foreseen from smaller ones, were most probable (experiments/ladder). Effects
have the noise of their seeds, whose variance follows the size (`smoothed`), and the error of what was chosen by tuning,
which all sizes share where one tuning serves them. Tails are Student's, with the degrees of freedom of that variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from ablab.analysis.estimates import LEVEL
from ablab.analysis.over_scale.seen import Array, Seen, smoothed
from ablab.analysis.second_opinion import sign_p

COVERAGE = 0.9  # of the interval of a forecast
TENFOLD = math.log(10)
BETAS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.37, 0.46, 0.6, 0.8, 1.1, 1.6)  # exponents of the forms that shrink
WALKS = (0.0, 0.3)  # standard deviations of a walk over tenfold compute, in the scale of the effects
_WALK_WEIGHTS = (0.3, 0.7)
# It stays, it shrinks, it settles, it changes by steps.
_FORM_WEIGHTS = (0.2, *(0.3 / len(BETAS) for _ in BETAS), 0.1, 0.4)
_SETTLING = 0.6
_RECENT = 3  # sizes, the largest, whose effects (root mean square) are the scale
_SLOPE = 1.0  # standard deviation of the change with each tenfold compute, in the scale of the effects
_LEVEL = 30.0  # standard deviations of the level, in the scale of the effects: it may be anything


@dataclass(frozen=True)
class Forecast:
    """What is thought of the effect at the smallest compute (first), at the largest (now) and beyond (then).

    It is a mixture over forms.

    Args:
        x: the logarithm of the compute that it is for.
        weights: of each form.
        means, covariances: of each form, of the effects first, now and then.
        noise: variance of the mean over as many new seeds, then.
        degrees: of freedom of all of it.
        least: variance that rounding leaves.
        line: of the straight line through the effects, without any beliefs: (effect then, its standard error, the p
            value of its misfit).
        by_signs: the p value of the sign test over all pairs, where those of each size tie; else 0.
    """

    x: float
    weights: Array
    means: Array
    covariances: Array
    noise: float
    degrees: float
    least: float
    line: tuple[float, float, float]
    by_signs: float = 0.0

    @property
    def effects(self) -> Array:
        """First, now and then, as all sizes together have them."""
        return np.asarray(self.weights @ self.means)

    @property
    def now(self) -> float:
        return float(self.effects[1])

    @property
    def then(self) -> float:
        return float(self.effects[2])

    def below(self, along: Sequence[float], bound: float = 0.0, noise: float = 0.0) -> float:
        """The probability that a combination of the three (and noise) is below the bound."""
        of = np.asarray(along, dtype=float)
        variances = np.maximum(np.einsum("kij,i,j->k", self.covariances, of, of) + noise, self.least)
        return float(self.weights @ special.stdtr(self.degrees, (bound - self.means @ of) / np.sqrt(variances)))

    @property
    def clear(self) -> bool:
        """Whether the interval of the effect then, as it would be measured, lies on one side of 0."""
        under = self.below((0, 0, 1), noise=self.noise)
        return min(under, 1 - under) < (1 - COVERAGE) / 2

    @property
    def line_p(self) -> float:
        """The one-sided p value of the straight line that the effect then has the sign that the mixture gives it.

        0 where the effects are shown to lie on no straight line.
        """
        effect, error, fits = self.line
        if fits < LEVEL:
            return 0.0
        return float(
            special.stdtr(self.degrees, -math.copysign(1.0, self.then) * effect / max(error, math.sqrt(self.least)))
        )

    def sign_p(self, *along: float) -> float:
        """The two-sided probability that a combination of the three has the other sign than it seems to have.

        Ties show no spread to hold an effect against, and say no more than their signs do.
        """
        under = self.below(along)
        return min(1.0, max(2 * min(under, 1 - under), self.by_signs))

    def interval(self, coverage: float = COVERAGE, measured: bool = True) -> tuple[float, float]:
        """Of the effect then: as it would be measured, with the noise of as many seeds, or as it is."""
        tail = (1 - coverage) / 2
        return self._quantile(tail, measured), self._quantile(1 - tail, measured)

    def _quantile(self, share: float, measured: bool) -> float:
        noise = self.noise if measured else 0.0
        reach = 50 * math.sqrt(max(float(self.covariances[:, 2, 2].max()), self.least) + noise)
        low, high = float(self.means[:, 2].min()) - reach, float(self.means[:, 2].max()) + reach
        found = optimize.brentq(
            lambda bound: self.below((0, 0, 1), bound, noise) - share, low, high, xtol=1e-12 * (high - low)
        )
        return float(found)


def forecast(seen: Seen, at: float, seeds: float | None = None) -> Forecast:
    """The effect at log compute `at`.

    Args:
        seeds: of the measurement that the interval is for; as many as the largest size has, if not given.
    """
    last = float(seen.x[-1])
    variances = smoothed(seen, np.append(seen.x, at))
    noise = variances[:-1] / seen.counts
    recent, ever = (float(np.sqrt((effects**2).mean())) for effects in (seen.effects[-_RECENT:], seen.effects))
    scale = max(recent, math.sqrt(float(np.median(noise)))) or max(ever, 1e-100)  # whose square is a number, too
    choice = np.zeros_like(np.diag(noise)) if seen.choice is None else seen.choice
    kernel, prior = _components(tuple(np.append(seen.x - last, at - last)))
    # Of spread, also where pairs are all alike: less is no more than rounding.
    least = (1e-6 * max(scale, math.sqrt(float(choice.max())))) ** 2
    errors = np.diag(noise + least) + choice
    weights, means, covariances = _posterior(kernel * scale**2, prior, seen.effects, errors)
    new = float(variances[-1]) / (seeds or float(seen.counts[-1])) + seen.anew
    line = _line(seen, errors, at)
    by_signs = 0.0 if noise.any() else sign_p(np.repeat(seen.effects, seen.counts.astype(int)).tolist())
    return Forecast(at, weights, means, covariances, new, seen.degrees, least, line, by_signs)


def _line(seen: Seen, errors: Array, at: float) -> tuple[float, float, float]:
    """The effect at log compute `at`, its standard error and the p value of the misfit, of the weighted line."""
    design = np.stack([np.ones_like(seen.x), seen.x - at], 1)
    weighted = np.linalg.solve(errors, design)
    covariance = np.linalg.inv(design.T @ weighted)
    line = covariance @ (weighted.T @ seen.effects)
    left, spare = seen.effects - design @ line, len(seen.x) - 2
    misfit = float(left @ np.linalg.solve(errors, left))
    fits = float(stats.f.sf(misfit / spare, spare, seen.degrees)) if spare else 1.0
    return float(line[0]), math.sqrt(float(covariance[0, 0])), fits


@lru_cache(maxsize=64)
def _components(x: tuple[float, ...]) -> tuple[Array, Array]:
    """(covariances of the effects at the sizes, now and then, for each form and walk; the weights of these).

    In the scale of the effects. The x are those of the sizes and of then, from now.
    """
    place = np.array([*x[:-1], x[0], 0.0, x[-1]])
    same_side = np.sign(place)[:, None] * np.sign(place)[None, :] > 0
    walk = np.where(same_side, np.minimum(np.abs(place)[:, None], np.abs(place)[None, :]), 0.0) / TENFOLD
    ones = np.ones_like(place)
    shrinking = [np.exp(-beta * place) for beta in BETAS]
    levels = [np.outer(form, form) * (_LEVEL / form[: len(x) - 1].mean()) ** 2 for form in (ones, *shrinking)]
    steps = _LEVEL**2 * np.outer(ones, ones) + np.outer(place, place) * (_SLOPE / TENFOLD) ** 2
    odd = np.exp(-_SETTLING * (place - place.min()))
    settles = _LEVEL**2 * np.outer(ones, ones) + np.outer(odd, odd)
    kernels = [form + size**2 * walk for form in (*levels, settles, steps) for size in WALKS]
    prior = [of_form * of_walk for of_form in _FORM_WEIGHTS for of_walk in _WALK_WEIGHTS]
    return np.stack(kernels), np.array(prior)


def _posterior(kernel: Array, prior: Array, effects: Array, errors: Array) -> tuple[Array, Array, Array]:
    """(weights, means, covariances) of first, now and then, for each component."""
    count = len(effects)
    within = kernel[:, :count, :count] + errors
    across, outside = kernel[:, count:, :count], kernel[:, count:, count:]
    root = np.linalg.cholesky(within)
    halved = np.linalg.solve(root, np.broadcast_to(effects, (len(kernel), count))[..., None])[..., 0]
    reached = np.linalg.solve(root, np.swapaxes(across, 1, 2))
    likelihood = -0.5 * (halved**2).sum(1) - np.log(np.einsum("kii->ki", root)).sum(1)
    weights = prior * np.exp(likelihood - likelihood.max())
    means = np.einsum("kci,kc->ki", reached, halved)
    covariances = outside - np.einsum("kci,kcj->kij", reached, reached)
    return weights / weights.sum(), means, covariances
