"""Three seeds: a standard error that the comparisons of a task share, so that none is calm by luck.

With three pairs a comparison's own variance has two degrees of freedom: t at 5% is 4.3, and 9.9 for the first of five
comparisons by Bonferroni. False claims come from variances that are small by chance. So the standard error of each is
its own or the root mean square of all comparisons' on the task, whichever is larger, and t stays that of two degrees
of freedom, which is what a comparison that is noisier than the others rests on. That maximum pays for up to
`UNCORRECTED` comparisons: any false claim of 1, 3, 5, 8 of them happens in .050, .050, .051, .053 of studies at most,
whatever the ratio of the noise of the baseline, of one, of some or of all variants (1/10 to 10) and in .010 where all
are alike. Of steps, each beside the one before it: .051, .055, .057, .058. For more, the level is divided by the square
root of how many times as many they are; for several tasks, by their number.

Power at an effect of 3.5 sd of the paired difference, five comparisons: .80 here, .32 for the paired t with Bonferroni,
.97 for a standard error pooled over variants with Dunnett's value, which claims falsely in .14 of studies where the
baseline is five times as noisy as the variants. `experiments/levels` measures all of it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from scipy import special

from ablab.analysis.estimates import LEVEL, Estimate, paired, variance_of

UNCORRECTED = 8  # comparisons on a task that the shared standard error alone pays for


def mean_variance(comparisons: Sequence[Sequence[float]]) -> float:
    """The mean over comparisons of the variance of their paired differences, of which each has two or more."""
    return fmean(map(variance_of, comparisons))


def with_shared_error(differences: Sequence[float], variance: float, choice: float = 0.0) -> Estimate:
    """The paired estimate whose variance is `variance`, that of all comparisons, where its own is smaller.

    Args:
        choice: as `paired` takes it.
    """
    own = paired(differences)
    error = math.hypot(max(own.standard_error, math.sqrt(variance / own.pairs)), choice)
    return Estimate(own.effect, error, own.degrees, own.pairs, choice)


def corrected_for(families: tuple[int, ...]) -> float:
    """By how much p is multiplied: 1 for a task of up to `UNCORRECTED` comparisons.

    Args:
        families: the number of comparisons of each task.
    """
    return sum(max(1.0, math.sqrt(size / UNCORRECTED)) for size in families)


def shared_p(statistic: float, degrees: int, families: tuple[int, ...]) -> float:
    """The adjusted p of `statistic`, |effect| / standard error."""
    return min(1.0, corrected_for(families) * float(2 * special.stdtr(degrees, -statistic)))


def shared_critical(degrees: int, families: tuple[int, ...], level: float = LEVEL) -> float:
    """The |t| at which `shared_p` is `level`: intervals of so many standard errors hold all at once."""
    return -float(special.stdtrit(degrees, level / 2 / corrected_for(families)))


def level_in_plan(families: tuple[int, ...], level: float = LEVEL) -> float:
    """The level at which the paired t test of one comparison has the power that the shared standard error leaves it.

    That is larger than the true one by 8% where power is 80%, whether 2 or 8 comparisons share it: as much as a level
    smaller by a sixth.
    """
    return level / corrected_for(families) * (1 if max(families, default=0) < 2 else 5 / 6)
