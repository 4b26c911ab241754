"""How studies in blocks of seeds go: at the level that they promise, and with the power that is documented."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ablab.analysis.course import course, course_of, detectable_at_last
from ablab.analysis.decisions import looks_at
from ablab.analysis.estimates import LEVEL
from ablab.analysis.futility import LookToCome, chance_of_decision
from ablab.config.seeds import SeedsConfig

LAST = len(SeedsConfig().every_look) - 1


@pytest.mark.parametrize("spending", ["pocock", "obrien_fleming", "anytime"])
@pytest.mark.parametrize(("variants", "real"), [(1, 0), (5, 0), (5, 3)])
def test_any_false_verdict_has_the_probability_of_the_level(spending: str, variants: int, real: int) -> None:
    """Also where some variants have an effect, whose share of the level the others take over."""
    studies, seeds = 8000, SeedsConfig(spending=spending)
    generator = np.random.default_rng(3)
    values = generator.standard_normal((studies, variants + 1, seeds.max))
    differences = values[:, 1:] - values[:, :1]
    differences[:, :real] += 3.0
    went = course_of(differences, seeds)
    wrong = (went.resolved_at[:, real:] <= LAST).any(axis=1).mean()
    assert wrong <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / studies)
    without = course_of(differences, SeedsConfig(spending=spending, stop="resolved"))
    assert went.seeds[:, real:].mean() < 0.7 * without.seeds[:, real:].mean(), "futility saves nothing"


def test_seeds_that_are_looked_at_once_are_those_of_the_t_test() -> None:
    """One look has the whole level, and its power is the textbook's."""
    seeds = SeedsConfig(max=8, looks=[8], stop="resolved")
    assert [each.level for each in looks_at(seeds, 0.03)] == pytest.approx([0.03])
    went = course(seeds, 1.2)
    bound = stats.t.isf(0.025, 7)
    wanted = stats.nct.sf(bound, 7, 1.2 * math.sqrt(8)) + stats.nct.cdf(-bound, 7, 1.2 * math.sqrt(8))
    assert went.resolved_by(0) == pytest.approx(wanted, abs=0.02)
    assert detectable_at_last(seeds, 1) == pytest.approx(1.16, abs=0.05)  # the documented one of eight seeds
    assert went.runs == 16


def test_power_and_seeds_of_pococks_looks() -> None:
    """What looks at 3, 5, 8 and 10 seeds find of 1.5 standard deviations, without giving up, as documented."""
    went = course(SeedsConfig(stop="resolved"), 1.5)
    assert went.resolved_by(LAST) == pytest.approx(0.95, abs=0.015)
    assert went.seeds.mean() == pytest.approx(6.7, abs=0.15)
    giving_up = course(SeedsConfig(), 1.5)
    assert giving_up.resolved_by(LAST) > went.resolved_by(LAST) - 0.025
    nothing = course(SeedsConfig(), 0.0)
    assert nothing.seeds.mean() < 5.5


def brute_force(differences: list[float], looks: list[LookToCome], margin: float | None) -> float:
    """The probability that one of the looks decides, study by study."""
    generator, pairs = np.random.default_rng(1), len(differences)
    bounds = [
        [stats.t.isf(level, look.seeds - 1) for level in (look.level / 2, look.equivalence_level)] for look in looks
    ]
    decided = 0
    for _ in range(1500):
        sd = np.std(differences, ddof=1) * math.sqrt((pairs - 1) / generator.chisquare(pairs - 1))
        effect = generator.normal(np.mean(differences), sd / math.sqrt(pairs))
        every = np.array([*differences, *generator.normal(effect, sd, looks[-1].seeds - pairs)])
        for look, (of_zero, of_margin) in zip(looks, bounds, strict=True):
            seen = every[: look.seeds]
            mean, error = abs(seen.mean()), seen.std(ddof=1) / math.sqrt(look.seeds)
            if mean > of_zero * error or (margin is not None and mean + of_margin * error < margin):
                decided += 1
                break
    return decided / 1500


@pytest.mark.parametrize("margin", [None, 1.2])
def test_the_chance_of_a_decision_is_that_of_drawing_what_is_to_come(margin: float | None) -> None:
    looks = [LookToCome(7, 0.02, 0.02), LookToCome(9, 0.02, 0.02)]
    differences = [0.1, 1.4, 0.2, 1.0]
    assert chance_of_decision(differences, looks, margin) == pytest.approx(
        brute_force(differences, looks, margin), abs=0.04
    )
    assert chance_of_decision(differences, looks, margin) == chance_of_decision(differences, looks, margin)


def test_differences_without_spread_are_sure_or_hopeless() -> None:
    looks = [LookToCome(9, 0.02, 0.02)]
    assert chance_of_decision([0.5, 0.5, 0.5], looks) == 1.0
    assert chance_of_decision([0.0, 0.0, 0.0], looks) == 0.0
    assert chance_of_decision([0.0, 0.0, 0.0], looks, 0.1) == 1.0
