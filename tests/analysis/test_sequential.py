"""Boundaries of several looks: the textbook's where variances are known, and the errors and powers they promise."""

import math
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ablab.analysis.sequential import ALPHAS, Boundary, Shape, departing, error_of, fixed, spending
from ablab.analysis.simulated_looks import Sides, cells_of, nested, sizes_of

LOOKS = (3, 5, 8, 10)
PLANNED = nested(LOOKS)
STUDIES = 200_000


@cache
def p_values(effect: float = 0.0, looks: tuple[int, ...] = LOOKS) -> NDArray[np.float64]:
    """Two-sided p of each look in other studies than the boundaries were made from, [looks, studies]."""
    differences = np.random.default_rng(5).normal(effect, size=(STUDIES, max(looks)))
    found = []
    for size in looks:
        seen = differences[:, :size]
        t = seen.mean(1) / seen.std(1, ddof=1) * math.sqrt(size)
        found.append(2 * stats.t.sf(np.abs(t), size - 1))
    return np.array(found)


def near(rate: float, studies: int = STUDIES) -> object:
    return pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / studies))


def crossed(boundary: Boundary, alpha: float, effect: float = 0.0) -> NDArray[np.bool_]:
    return p_values(effect) < np.array(boundary.at(alpha))[:, None]


def test_pococks_level_error_and_power_at_3_5_8_and_10_seeds() -> None:
    boundary = fixed(PLANNED, "pocock")
    assert boundary.at(0.05) == pytest.approx([0.0166] * 4, abs=1e-4)
    assert float(crossed(boundary, 0.05).any(0).mean()) == near(0.05)
    resolved = crossed(boundary, 0.05, effect=1.5)
    assert float(resolved.any(0).mean()) == pytest.approx(0.95, abs=0.005)
    at = np.where(resolved.any(0), np.array(LOOKS)[resolved.argmax(0)], LOOKS[-1])
    assert float(at.mean()) == pytest.approx(6.7, abs=0.05)
    assert float((p_values(1.5)[-1] < 0.05).mean()) == pytest.approx(0.99, abs=0.005)


@pytest.mark.parametrize(
    ("shape", "of_last"),
    [
        ("pocock", {2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413}),
        ("obrien_fleming", {2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040}),
    ],
)
def test_with_very_many_seeds_boundaries_are_the_textbooks(shape: Shape, of_last: dict[int, float]) -> None:
    """Jennison and Turnbull (1999), tables 2.1 and 2.3: two-sided, .05, equally spaced looks."""
    for looks, constant in of_last.items():
        cells = nested([2000 * (look + 1) for look in range(looks)])
        found = stats.norm.isf(np.array(fixed(cells, shape).at(0.05)) / 2)
        stretch = np.sqrt(looks / (np.arange(looks) + 1)) if shape == "obrien_fleming" else 1.0
        assert found == pytest.approx(constant * stretch, rel=0.004)


@pytest.mark.parametrize(
    ("shape", "bounds"),
    [("pocock", [2.368, 2.368, 2.358, 2.350]), ("obrien_fleming", [4.333, 2.963, 2.359, 2.014])],
)
def test_spending_functions_give_the_published_bounds(shape: Shape, bounds: list[float]) -> None:
    """Lan and DeMets (1983) with four equally spaced looks, two-sided, .05."""
    found = spending(nested([2000, 4000, 6000, 8000]), shape, 8000).at(0.05)
    assert stats.norm.isf(np.array(found) / 2) == pytest.approx(bounds, rel=0.006)


BOUNDARIES = {
    "pocock": lambda: fixed(PLANNED, "pocock"),
    "obrien_fleming": lambda: fixed(PLANNED, "obrien_fleming"),
    "lan_demets_pocock": lambda: spending(PLANNED, "pocock", 10),
    "lan_demets_obf": lambda: spending(PLANNED, "obrien_fleming", 10),
    "departing": lambda: departing(PLANNED, nested((4, 7, 10)), "pocock"),
}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_a_study_errs_at_its_level_whatever_that_is(name: str) -> None:
    boundary = BOUNDARIES[name]()
    for alpha in (0.001, 0.00625, 0.025, 0.05):
        assert float(crossed(boundary, alpha).any(0).mean()) == near(alpha)
        assert error_of(PLANNED, boundary.at(alpha)) == near(alpha)
    rows = np.array([boundary.at(float(alpha)) for alpha in ALPHAS])
    assert (np.diff(rows, axis=0) >= -1e-12).all()


@pytest.mark.parametrize("name", BOUNDARIES)
def test_the_sequential_p_is_the_level_at_which_the_boundary_was_crossed(name: str) -> None:
    boundary = BOUNDARIES[name]()
    for alpha in (1e-5, 0.0013, 0.05, 0.15):
        for look, level in enumerate(boundary.at(alpha)):
            before = [1.0] * look
            assert boundary.p_value([*before, level]) == pytest.approx(alpha, rel=1e-6)
            assert boundary.p_value([*before, level, 1.0][: len(LOOKS)]) == pytest.approx(alpha, rel=1e-6)
    few = p_values()[:, :4000]
    sequential = np.array([boundary.p_value(column) for column in few.T.tolist()])
    for alpha in (0.02, 0.05, 0.2):
        assert float((sequential <= alpha).mean()) == near(alpha, len(sequential))
    assert boundary.p_value([]) == boundary.p_value([1.0] * 4) == 1.0


@pytest.mark.parametrize("sides", [1, 2])
def test_one_look_is_the_test_itself(sides: Sides) -> None:
    for boundary in (fixed(nested([5]), "pocock", sides), spending(nested([5]), "obrien_fleming", 5, sides)):
        for alpha in (0.001, 0.01, 0.05, 0.19):
            assert boundary.at(alpha) == pytest.approx([alpha], abs=4 * math.sqrt(alpha / 2**20))


def test_one_sided_tests_have_levels_of_their_own() -> None:
    boundary = fixed(PLANNED, "pocock", 1)
    generator = np.random.default_rng(9)
    differences = generator.normal(size=(STUDIES, 10))
    claimed = np.zeros(STUDIES, bool)
    for size, level in zip(LOOKS, boundary.at(0.05), strict=True):
        seen = differences[:, :size]
        claimed |= stats.t.sf(seen.mean(1) / seen.std(1, ddof=1) * math.sqrt(size), size - 1) < level
    assert float(claimed.mean()) == near(0.05)


def test_the_planned_looks_alone_are_no_departure_and_a_look_more_costs_something() -> None:
    plan = fixed(PLANNED, "pocock")
    assert departing(PLANNED, PLANNED, "pocock").at(0.05) == pytest.approx(plan.at(0.05), rel=0.02)
    more = departing(nested((3, 4, 5, 8, 10)), PLANNED, "pocock").at(0.05)
    assert more[0] == pytest.approx(plan.at(0.05)[0], rel=0.01)
    assert max(more[1:]) < plan.at(0.05)[0]


def test_looks_need_not_be_nested() -> None:
    apart = cells_of([(0, 1, 2, 3), (4, 5, 6, 7)])
    assert sizes_of(apart) == (4, 4)
    assert error_of(apart, (0.05, 0.05)) == near(1 - 0.95**2)
    same = cells_of([(0, 1, 2, 3), (3, 2, 1, 0)])
    assert error_of(same, (0.05, 0.05)) == near(0.05)


def test_the_same_levels_every_time() -> None:
    fixed.cache_clear()
    first = fixed(PLANNED, "pocock").at(0.05)
    fixed.cache_clear()
    assert fixed(PLANNED, "pocock").at(0.05) == first
