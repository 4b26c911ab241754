"""How often forecasts over scale are right, and verdicts false, in simulated ladders with known laws.

    python experiments/ladder/simulate.py          # the tables of docs/over_scale.md: 2,000 and 400 ladders a line

Losses follow L = E + A C^-alpha with laws as published fits have them; a variant's law differs from the baseline's a
little in one or several of E, A and alpha, or in none. A third of the variants is odd at small sizes, sizes depart from
the law by some percent of the effect, and the noise of paired differences changes with the size.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablab.analysis.over_scale.forecast import TENFOLD, forecast
from ablab.analysis.over_scale.seen import Seen
from ablab.analysis.over_scale.verdicts import Claims, ScaleVerdict, judge

Array = NDArray[np.float64]
COVERAGE, ERRORS = 2000, 400  # ladders of each line


@dataclass(frozen=True)
class Kind:
    """A kind of ladder whose largest size is held out."""

    sizes: int  # that the forecast has
    seeds: int
    span: float  # compute of the largest of them over that of the smallest
    ahead: float  # compute of the one that is held out over that of the largest


KINDS = (Kind(3, 5, 10, 4), Kind(4, 3, 30, 3), Kind(4, 4, 20, 8), Kind(5, 4, 165, 10), Kind(6, 5, 300, 10))


def effects(random: np.random.Generator, x: Array) -> Array:
    """The true effect at each log compute, counted from the smallest."""
    compute = np.exp(x)
    floor, scale, alpha = random.uniform(0.5, 1.8), random.uniform(1, 3), random.uniform(0.08, 0.3)
    size = math.exp(random.uniform(math.log(0.003), math.log(0.1)))
    of_floor, of_scale, of_alpha = (
        random.normal(size=3) * size * [(0, 1, 0), (0.3, 1, 0), (0, 1, alpha), (0, 0, 0)][random.integers(4)]
    )
    base = floor + scale * compute**-alpha
    true = floor * (1 + of_floor) + scale * (1 + of_scale) * compute ** -(alpha * (1 + of_alpha)) - base
    true = true * (1 + random.normal(size=len(x)) * random.choice([0, 0.05, 0.15]))
    odd = random.normal() * size * np.exp(-random.uniform(0.4, 1) * x) if random.random() < 1 / 3 else 0.0
    return np.asarray(true + odd)


def noises(random: np.random.Generator, x: Array) -> Array:
    """The standard deviation of a paired difference at each log compute."""
    return np.asarray(
        math.exp(random.uniform(math.log(0.003), math.log(0.03))) * np.exp(-random.uniform(-0.05, 0.25) * x)
    )


def covered(random: np.random.Generator, kind: Kind) -> bool:
    """Whether the effect measured at the size held out lies in the interval."""
    x = np.append(np.linspace(0, math.log(kind.span), kind.sizes), math.log(kind.span * kind.ahead))
    true, noise = effects(random, x), noises(random, x)
    seen = true[:, None] + noise[:, None] * random.normal(size=(len(x), kind.seeds))
    low, high = forecast(Seen.of(x[:-1], seen[:-1]), float(x[-1])).interval()
    return bool(low <= seen[-1].mean() <= high)


def coverage(kind: Kind, ladders: int, seed: int = 1) -> float:
    random = np.random.default_rng(seed)
    return sum(covered(random, kind) for _ in range(ladders)) / ladders


# The true effect by the logarithm of compute over the largest; 1 there, unless there is none or it turns round.
TRUTHS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: 0 * x,
    "0 at ten times, on a line": lambda x: 1 - x / TENFOLD,
    "half at ten times, by a power": lambda x: np.asarray(0.5 ** (x / TENFOLD)),
    "a tenth at ten times, by a power": lambda x: np.asarray(0.1 ** (x / TENFOLD)),
    "a quarter at ten times, by a power": lambda x: np.asarray(0.25 ** (x / TENFOLD)),
    "turns round on the way, on a line": lambda x: 1 - 2 * x / TENFOLD,
    "turns round now, on a line": lambda x: -x / TENFOLD,
    "constant": lambda x: 1 + 0 * x,
    "same gain, alpha = 0.15": lambda x: np.exp(-0.15 * x),
}
NOISES = (0.1, 0.4, 1.0)  # standard deviation of a paired difference at the largest size


def verdicts(
    truth: str, noise: float, comparisons: int, ladders: int, seed: int = 2
) -> tuple[dict[ScaleVerdict, float], float]:
    """(share of each verdict, share of studies with any but UNKNOWN) of ladders of five sizes and four seeds."""
    random, x = np.random.default_rng(seed), np.linspace(-math.log(165), 0, 5)
    counts, studies = dict.fromkeys(ScaleVerdict, 0.0), 0
    for _ in range(ladders):
        claims = []
        for _ in range(comparisons):
            spread = noise * np.exp(-0.1 * x)[:, None] * random.normal(size=(5, 4))
            claims.append(Claims.of(forecast(Seen.of(x, TRUTHS[truth](x)[:, None] + spread), TENFOLD)))
        found = [verdict for verdict, _, _ in judge(claims)]
        studies += any(verdict is not ScaleVerdict.UNKNOWN for verdict in found)
        for verdict in found:
            counts[verdict] += 1 / (ladders * comparisons)
    return counts, studies / ladders


def main(scale: float) -> None:
    print("| sizes | seeds | span of compute | held out at | covered by the 90% interval |\n|---|---|---|---|---|")
    for kind in KINDS:
        share = coverage(kind, int(COVERAGE * scale))
        print(f"| {kind.sizes} | {kind.seeds} | {kind.span}x | {kind.ahead}x | {share:.3f} |", flush=True)
    print("\n| true effect | noise | HOLDS | FADES | REVERSES | any of 8 |\n|---|---|---|---|---|---|")
    for truth in TRUTHS:
        for noise in NOISES if truth != "none" else NOISES[-1:]:
            alone, _ = verdicts(truth, noise, 1, int(ERRORS * scale))
            _, any_of = verdicts(truth, noise, 8, int(ERRORS * scale / 8))
            shares = " | ".join(f"{alone[each]:.3f}" for each in ScaleVerdict if each is not ScaleVerdict.UNKNOWN)
            print(f"| {truth} | {noise} | {shares} | {any_of:.2f} |", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
