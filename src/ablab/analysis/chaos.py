"""How much of what pairing leaves is chaos: rounding that training makes larger until it shows in the result.

Two runs of one seed that differ by nothing but rounding, such as one number of one weight 1e-7 off at the start, end
apart by the chaos of both. With Y_b the value of the baseline on a seed, Y_b' that of the baseline so perturbed, and
Y_v that of a variant,

    Y_b = m_b + e_b,    Y_b' = m_b + e_b',    Y_v = m_v + e_v,

where m is what the seed does to all runs of an arm, and the e are independent draws of chaos with variance c. Then

    E (Y_b' - Y_b)^2 = 2 c,    var(Y_v - Y_b) = var(m_v - m_b) + 2 c,

    chaos share = E (Y_b' - Y_b)^2 / var(Y_v - Y_b).

Both sides have the chaos of two runs, so that no factor is left; what is assumed is that the variant is as chaotic as
the baseline. The square is taken about zero, not about its mean, since a perturbation has no direction. What is not
chaos, var(m_v - m_b), is the seed's: it interacts with the component, and no number of evaluations takes it out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL, FloatArray, Interval
from ablab.analysis.pairing import Pairing, outcomes
from ablab.config.placebo import KEY, NUDGE
from ablab.results.collect import Runs

ROUNDING = (NUDGE, "order")  # placebos that differ from the baseline by rounding alone, the first one preferred


@dataclass(frozen=True)
class ChaosShare:
    """The share of chaos in the variance of a comparison's paired differences."""

    share: float  # 0 or more; above 1 where the perturbed runs happen to be further apart than the variant's
    interval: Interval  # 95%, by the F distribution of two independent variances: rough, since the baseline is in both
    seeds: int  # of the perturbed runs


def chaos_share(differences: Sequence[float] | FloatArray, nudged: Sequence[float] | FloatArray) -> ChaosShare | None:
    """The share, or None below FEWEST_SEEDS of either, or where the variant's differences do not vary.

    Args:
        differences: variant minus baseline, by seed.
        nudged: the perturbed baseline minus the baseline, by seed; of the same seeds or of others.
    """
    apart, alone = np.asarray(differences, dtype=float), np.asarray(nudged, dtype=float)
    if min(len(apart), len(alone)) < FEWEST_SEEDS or np.ptp(apart) == 0:
        return None
    share = float(np.mean(alone**2) / apart.var(ddof=1))
    degrees = len(alone), len(apart) - 1
    low, high = (share / float(stats.f.ppf(point, *degrees)) for point in (1 - LEVEL / 2, LEVEL / 2))
    return ChaosShare(share, (low, high), len(alone))


def rounding_arm(runs: Runs, task: str, baseline: str) -> str | None:
    """The placebo of `runs.every` on `task` that is the baseline but for rounding; None if there is none."""
    names = (f"{baseline},{KEY}={kind}" for kind in ROUNDING)
    return next((name for name in names if (task, name) in runs.every.places), None)


def rounding_differences(runs: Runs, task: str, metric: str, baseline: str, last_k: int = 1) -> list[float]:
    """What rounding alone makes of the baseline, by seed; empty where no runs tell."""
    arm = rounding_arm(runs, task, baseline)
    if arm is None:
        return []
    own, base = (outcomes(runs.every, task, variant, metric, last_k) for variant in (arm, baseline))
    return Pairing(arm, baseline, task, metric, own, base).differences


def bounded(share: ChaosShare) -> tuple[float, float, float]:
    """The share and its interval as shares of one whole."""
    return min(share.share, 1.0), min(share.interval[0], 1.0), min(share.interval[1], 1.0)


def resolvable(share: ChaosShare) -> bool:
    """Whether the seeds say anything of it: its interval is not all of 0 to 1."""
    _, low, high = bounded(share)
    return math.isfinite(low) and (low > 0.01 or high < 0.99)
