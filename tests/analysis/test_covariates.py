"""The adjusted effect: unbiased, at its level, and no better than theory allows."""

from collections.abc import Iterator

import numpy as np
import pytest

from ablab.analysis.covariates import adjusted
from ablab.analysis.estimates import Estimate, FloatArray, paired


def studies(share: float, seeds: int, more: int, number: int, effect: float = 0.0) -> Iterator[tuple[FloatArray, ...]]:
    """Differences and a covariate that explains `share` of their variance, and the covariate on more seeds."""
    random = np.random.default_rng(int(100 * share) + seeds)
    for _ in range(number):
        z = random.normal(size=seeds)
        d = effect + np.sqrt(share) * z + np.sqrt(1 - share) * random.normal(size=seeds)
        yield d, z[:, None] + 3, random.normal(size=(more, 1)) + 3


@pytest.mark.parametrize(("share", "seeds", "more"), [(0.0, 5, 50), (0.5, 8, 20), (0.9, 5, 200), (0.9, 8, 8)])
def test_it_errs_at_its_level(share: float, seeds: int, more: int) -> None:
    made = [adjusted(*study) for study in studies(share, seeds, more, 1000)]
    false = sum(each.p_value < 0.05 for each in made) / len(made)
    assert 0.02 <= false <= 0.065
    effects = np.array([each.effect for each in made])
    assert abs(effects.mean()) < 4 * effects.std() / np.sqrt(len(made))


def test_the_residual_alone_would_not() -> None:
    """Which is what regression on a covariate that both runs of a pair share would suggest."""
    false, number = 0, 1000
    for d, z, _ in studies(0.5, 8, 20, number):
        slope, intercept = np.polyfit(z[:, 0] - z.mean(), d, 1)
        residual = d - intercept - slope * (z[:, 0] - z.mean())
        error = np.sqrt(residual @ residual / 6 / 8)
        false += Estimate(float(intercept), float(error), 6, 8).p_value < 0.05
        assert intercept == pytest.approx(d.mean())  # it leaves the effect where it was
    assert false / number > 0.08


def test_it_gains_what_the_covariate_explains() -> None:
    narrow = [adjusted(*study).standard_error for study in studies(0.9, 10, 500, 300)]
    wide = [paired(list(study[0])).standard_error for study in studies(0.9, 10, 500, 300)]
    assert np.mean(narrow) / np.mean(wide) == pytest.approx(np.sqrt(0.1), rel=0.25)


@pytest.mark.parametrize(("seeds", "other"), [(2, [[1.0], [2.0]]), (5, [[1.0]])])
def test_too_few_seeds_are_refused(seeds: int, other: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="do not suffice"):
        adjusted([0.1] * seeds, [[float(seed)] for seed in range(seeds)], other)
