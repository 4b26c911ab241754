"""The step-down over two claims of each comparison, against its definition, and the false claims that it allows."""

import itertools

import numpy as np
import pytest
from scipy import stats

from ablab.analysis.estimates import LEVEL, holm
from ablab.analysis.step_down import PValues, step_down

Test = tuple[int, bool]  # the place of a comparison, and whether its claim is that of equivalence


def rejected(raw: list[PValues], weights: list[float], reserved: float, level: float) -> set[Test]:
    """By the definition: at each comparison's share of the level, among those of which a hypothesis may be true."""
    tests = {(place, False): p.difference for place, p in enumerate(raw)}
    tests |= {(place, True): p.equivalence for place, p in enumerate(raw) if p.equivalence is not None}
    found: set[Test] = set()
    while len(found) < len(tests):
        total = reserved + sum(weights[p] for p in range(len(raw)) if {t for t in tests if t[0] == p} - found)
        more = {test for test, p in tests.items() if p <= level * weights[test[0]] / total} - found
        if not more:
            break
        found |= more
    return found


def drawn(seed: int) -> tuple[list[PValues], list[float], float]:
    draw = np.random.default_rng(seed)
    size = int(draw.integers(1, 7))
    p = draw.uniform(size=(size, 2)) ** draw.integers(1, 6, (size, 2))
    with_margin = draw.integers(0, 2, size).astype(bool)
    raw = [PValues(float(a), float(b) if there else None) for (a, b), there in zip(p, with_margin, strict=True)]
    return raw, [float(each) for each in draw.integers(1, 5, size)], float(draw.choice([0, 3]))


@pytest.mark.parametrize("seed", range(60))
def test_an_adjusted_p_is_the_smallest_level_that_rejects(seed: int) -> None:
    raw, weights, reserved = drawn(seed)
    adjusted = step_down(raw, weights, reserved)
    for level in (0.001, 0.01, 0.05, 0.2, 0.6):
        below = {(place, False) for place, p in enumerate(adjusted) if p.difference <= level}
        below |= {(place, True) for place, p in enumerate(adjusted) if (p.equivalence or 2) <= level}
        assert below == rejected(raw, weights, reserved, level)


@pytest.mark.parametrize("seed", range(20))
def test_equal_weights_without_a_margin_are_holms_method(seed: int) -> None:
    p = [float(each) for each in np.random.default_rng(seed).uniform(size=seed + 1) ** 4]
    adjusted = step_down([PValues(each) for each in p], [1] * len(p))
    assert [each.difference for each in adjusted] == pytest.approx(holm(p))


def test_what_is_resolved_hands_its_weight_on_unless_it_may_still_err() -> None:
    """Of an effect that is there, its being the margin or more may be true: the other cannot have its share."""
    resolved, other = PValues(1e-6), PValues(0.04)
    assert step_down([resolved, other], [1, 1])[1].difference == pytest.approx(0.04)
    assert step_down([PValues(1e-6, 0.9), other], [1, 1])[1].difference == pytest.approx(0.08)
    assert step_down([PValues(1e-6, 1e-5), other], [1, 1])[1].difference == pytest.approx(0.04)


def false_claims(effects: list[float], margin: float, weights: list[float], studies: int = 4_000) -> float:
    """The share of studies with any false claim, when the differences of comparisons share their baseline's noise."""
    draw, seeds = np.random.default_rng(5), 5
    shared = draw.normal(size=(studies, 1, seeds))
    values = np.array(effects)[:, None] + (shared + draw.normal(size=(studies, len(effects), seeds))) / np.sqrt(2)
    mean, error = values.mean(-1), values.std(-1, ddof=1) / np.sqrt(seeds)
    difference = 2 * stats.t.sf(abs(mean) / error, seeds - 1)
    equivalence = stats.t.sf((margin - abs(mean)) / error, seeds - 1)
    wrong = 0
    for p, q in zip(difference.tolist(), equivalence.tolist(), strict=True):
        adjusted = step_down(list(itertools.starmap(PValues, zip(p, q, strict=True))), weights)
        wrong += any(
            (each.difference < LEVEL and effect == 0) or ((each.equivalence or 0) < LEVEL and abs(effect) >= margin)
            for each, effect in zip(adjusted, effects, strict=True)
        )
    return wrong / studies


@pytest.mark.parametrize("effects", [[0.0] * 5, [1.5] * 5, [0.0, 0.0, 1.5, 1.5, 6.0]], ids=str)
def test_any_false_claim_of_either_kind_has_the_level(effects: list[float]) -> None:
    """No effects, effects as large as the margin, and both: superiority and equivalence share one level."""
    rate = false_claims(effects, margin=1.5, weights=[3, 3, 2, 2, 2])
    assert 0.01 < rate <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 4_000)
