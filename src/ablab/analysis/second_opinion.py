"""A second opinion on each comparison, for noise that is not normal, and a flag for seeds that lie apart.

The paired t test errs where variants are skewed, or have one bad seed in ten, and the baseline is calm: comparisons
whose few seeds missed the tail look calm and claim. Their seeds do not show it, those of the other comparisons do. So
each comparison of `FULL_SEEDS` pairs or more is tested once more with the spread of all comparisons of its task (the
geometric mean of their variances) where its own is smaller. A claim that this does not share is said to rest on its own
spread.

Any false claim in studies of s seeds without effect and with a calm baseline, by the t test, and without doubt:

                                  1 variant    3 variants   8 variants
    one bad seed in ten   s = 5   .14, .14     .20, .06     .19, .02
                          s = 10  .22, .22     .34, .08     .45, .03
    lognormal             s = 5   .16, .16     .24, .08     .35, .04
                          s = 10  .15, .15     .26, .09     .42, .04
    normal                s = 5   .05, .05     .05, .02     .05, .01
                          s = 10  .05, .05     .05, .03     .05, .01

Of true claims on normal noise it doubts up to 5%, more where one variant is much noisier than the rest. With one
variant there is nothing to compare its spread with: what remains is the flag. Sign and signed-rank tests as a second
opinion leave .02 to .42 of these claims, since in samples without the tail the median agrees with the mean; they serve
where t resolves nothing and nearly all seeds agree.

The flag is the larger deviation than in `LEVEL` of comparisons on normal noise, by Grubbs' test and, from `SKEW_SEEDS`
seeds on, that of skewness. It sees 16 to 27% of comparisons with bad seeds at 4 and 5 seeds, and half at 10.

Sources: Grubbs (1969), "Procedures for detecting outlying observations in samples"; D'Agostino (1970),
"Transformation to normality of the null distribution of g1"; Smyth (2004), "Linear models and empirical Bayes methods
for assessing differential expression", for the mean of log variances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy import special, stats

from ablab.analysis.estimates import FULL_SEEDS, LEVEL, Estimate, paired, variance_of
from ablab.analysis.looks import ONE_LOOK, Looks

SKEW_SEEDS = 8  # fewest that the test of skewness is for
SIGN_SEEDS = 6  # fewest on which signs can show anything


@dataclass(frozen=True)
class SecondOpinion:
    """What else can be said of the differences of one comparison."""

    median: float
    p_shared: float | None = None  # with the spread of all comparisons on the task, adjusted; None without others
    shared_sd: float | None = None  # of one difference
    p_sign: float | None = None  # of the sign test, adjusted for the number of comparisons; None for few seeds


@dataclass(frozen=True)
class OddSeeds:
    """Differences that lie apart from the others, or lean to one side, more than normal ones do."""

    place: int | None  # of the difference that lies apart; None: they are skewed
    p: float


def shared_sd(comparisons: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation of one difference by the mean of the logarithms of the variances; None without spread.

    The mean over comparisons of each logarithm's own bias is taken off, so that normal noise gives the true one.
    """
    known = [(variance_of(each), len(each) - 1) for each in comparisons]
    logs = [
        math.log(variance) - float(special.digamma(df / 2)) + math.log(df / 2) for variance, df in known if variance > 0
    ]
    return math.exp(sum(logs) / len(logs) / 2) if logs else None


@dataclass(frozen=True)
class SharedSpread:
    """What the comparisons on one task say of the spread of each."""

    sd: float  # of one difference
    comparisons: int

    @classmethod
    def of(cls, comparisons: Sequence[Sequence[float]]) -> SharedSpread | None:
        """From the differences of each; None for fewer than two, and without spread."""
        sd = shared_sd(comparisons) if len(comparisons) > 1 else None
        return None if sd is None else cls(sd, len(comparisons))

    def p_value(self, own: Estimate) -> float:
        """Two-sided, of one of them, with this spread where its own is smaller."""
        error = max(own.standard_error, math.hypot(self.sd / math.sqrt(own.pairs), own.choice))
        return float(2 * special.stdtr(own.degrees * self.comparisons, -abs(own.effect) / error))


def second_opinion(
    differences: Mapping[int, float],
    shared: SharedSpread | None,
    factor: float,
    comparisons: int,
    choice: float = 0.0,
    looks: Looks = ONE_LOOK,
) -> SecondOpinion:
    """The second opinion on one comparison.

    Where a study has several looks, its p is sequential as that of t is, so that a claim which an early look has made
    is tested as that look found it: by the shared spread as it is known now.

    Args:
        differences: by seed.
        shared: of its task, itself among them; None: nothing to hold it against.
        factor: by which the correction multiplied the p of its t test.
        comparisons: of the study.
        choice: as `paired` takes it.
    """
    values = list(differences.values())
    p = looks.p_value(differences, lambda seen: shared.p_value(paired(seen, choice))) if shared else None
    return SecondOpinion(
        median=median(values),
        p_shared=None if p is None else min(1.0, factor * p),
        shared_sd=shared.sd if shared else None,
        p_sign=None if len(values) < SIGN_SEEDS else min(1.0, comparisons * sign_p(values)),
    )


def sign_p(differences: Sequence[float]) -> float:
    """Two-sided, that the median is 0. Differences of exactly 0 say nothing."""
    signs = [difference > 0 for difference in differences if difference]
    return float(stats.binomtest(sum(signs), len(signs)).pvalue) if signs else 1.0


def odd_seeds(differences: Sequence[float], level: float = LEVEL) -> OddSeeds | None:
    """The flag: on normal noise it is raised with the probability `level`."""
    values = np.asarray(differences, dtype=float)
    if len(values) < FULL_SEEDS or not variance_of(values):
        return None
    apart = np.abs(values - values.mean())
    tests = 2 if len(values) >= SKEW_SEEDS else 1
    found = [OddSeeds(int(apart.argmax()), tests * _grubbs_p(float(apart.max() / values.std(ddof=1)), len(values)))]
    if tests == 2:
        found.append(OddSeeds(None, tests * float(stats.skewtest(values).pvalue)))
    least = min(found, key=lambda each: each.p)
    return least if least.p < level else None


def _grubbs_p(statistic: float, count: int) -> float:
    """That the largest of `count` deviations, in standard deviations, is that large: an upper bound, near the truth."""
    squared = statistic**2 * count
    rest = (count - 1) ** 2 - squared
    if rest <= 0:
        return 0.0
    return min(1.0, 2 * count * float(special.stdtr(count - 2, -math.sqrt(squared * (count - 2) / rest))))
