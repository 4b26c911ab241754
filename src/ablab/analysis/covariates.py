"""Paired effects with covariates that each seed has before the two runs of its pair part.

Both runs of a pair share such a covariate: the loss of the untrained model, or of a short start that they have in
common. What one may hope for from regressing the differences on it is less than in a trial whose arms differ in the
covariate. Its mean over the seeds that were compared leaves the effect as it is (a least-squares line goes through both
means), and the smaller residual is then the error for *these* seeds and not for seeds: taken as the standard error it
claims falsely in .13 of studies where half of the variance is the covariate's (8 seeds; .38 of nine tenths and 5). It
helps only where the covariate's mean over all seeds is known better than from those compared, as from starts of many
more seeds, which cost little:

    D = a + b (Z - mean) + e,    effect = the line at the mean over all seeds.

That is a control variate (Lavenberg and Welch 1981, section 2), with the line's own standard error, the uncertainty of
the mean, and a degree of freedom less for each covariate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ablab.analysis.estimates import Estimate, FloatArray


def adjusted(
    differences: Sequence[float] | FloatArray,
    covariates: Sequence[Sequence[float]] | FloatArray,
    everywhere: Sequence[Sequence[float]] | FloatArray,
) -> Estimate:
    """The effect, adjusted for where the seeds that were compared lie among all.

    Args:
        differences: variant minus baseline, by seed.
        covariates: [seeds][covariates] of these seeds, fixed before the pair parts.
        everywhere: [seeds][covariates] of other seeds, which were not compared: the more, the better is the mean known.

    Raises:
        ValueError: there are too few seeds for so many covariates, or these do not tell them apart.
    """
    values = np.asarray(differences, dtype=float)
    own, other = np.asarray(covariates, dtype=float), np.asarray(everywhere, dtype=float)
    if own.ndim != 2 or other.ndim != 2 or own.shape[1] != other.shape[1] or len(own) != len(values):
        raise ValueError("covariates must be [seeds][covariates], those of the differences in their order")
    count, several = own.shape
    degrees = count - 1 - several
    if degrees < 1 or len(other) < 2 or np.linalg.matrix_rank(own - own.mean(0)) < several:
        raise ValueError(f"{count} seeds do not suffice for {several} covariates")
    centre = np.concatenate([own, other]).mean(0)  # over all seeds that are known
    design = np.column_stack([np.ones(count), own - centre])
    solution, *_ = np.linalg.lstsq(design, values, rcond=None)
    residual = values - design @ solution
    variance = float(residual @ residual) / degrees
    inverse = np.linalg.inv(design.T @ design)
    slopes = solution[1:]
    spread = np.atleast_2d(np.cov(np.concatenate([own, other]), rowvar=False)) / (count + len(other))
    of_mean = max(0.0, float(slopes @ spread @ slopes - variance * np.trace(inverse[1:, 1:] @ spread)))
    return Estimate(float(solution[0]), math.sqrt(variance * float(inverse[0, 0]) + of_mean), degrees, count)
