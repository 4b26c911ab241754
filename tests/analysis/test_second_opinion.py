"""The second opinion and the flag: by hand and scipy, and what remains of false claims on skewed noise, counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from said import notes_of, sentence_of
from scipy import stats
from synthetic import runs_of, study

from ablab.analysis.comparison import compare
from ablab.analysis.estimates import LEVEL, holm, paired
from ablab.analysis.second_opinion import SKEW_SEEDS, SharedSpread, odd_seeds, second_opinion, shared_sd, sign_p

STUDIES = 500
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
NOISE: dict[str, Draw] = {
    "normal": lambda draw, shape: draw.normal(size=shape),
    "one bad seed in ten": lambda draw, shape: draw.normal(size=shape) + 8 * (draw.random(shape) < 0.1) - 0.8,
    "lognormal": lambda draw, shape: draw.lognormal(size=shape) - math.exp(0.5),
}


@lru_cache(maxsize=16)
def claims(noise: str, seeds: int, variants: int, effect: float = 0.0) -> tuple[float, float]:
    """(studies with any claim, those with any that the second opinion shares), the baseline calm."""
    draw = np.random.default_rng([seeds, variants])
    made = shared = 0
    for _ in range(STUDIES):
        apart = NOISE[noise](draw, (variants, seeds)) - 0.3 * draw.normal(size=seeds)
        apart[0] += effect
        rows = [list(row) for row in (apart if not effect else apart[:1])]
        raw = [paired(list(row)).p_value for row in apart]
        adjusted = holm(raw)
        spread = SharedSpread.of(apart.tolist())
        held = [
            p < LEVEL and (second_opinion(dict(enumerate(row)), spread, p / own, variants).p_shared or 0) < LEVEL
            for row, p, own in zip(rows, adjusted, raw, strict=False)
        ]
        made += any(p < LEVEL for p in adjusted[: len(rows)])
        shared += any(held)
    return made / STUDIES, shared / STUDIES


@pytest.mark.parametrize(
    ("noise", "seeds", "variants", "without", "remaining"),
    [
        ("one bad seed in ten", 5, 8, 0.20, 0.05),
        ("one bad seed in ten", 10, 8, 0.45, 0.06),
        ("one bad seed in ten", 10, 3, 0.33, 0.12),
        ("lognormal", 10, 8, 0.42, 0.05),
        ("normal", 5, 8, 0.05, 0.04),
    ],
)
def test_what_remains_of_false_claims(noise: str, seeds: int, variants: int, without: float, remaining: float) -> None:
    made, shared = claims(noise, seeds, variants)
    assert made == pytest.approx(without, abs=0.06)
    assert shared <= remaining


def test_true_claims_on_normal_noise_are_seldom_doubted() -> None:
    made, shared = claims("normal", 5, 5, effect=4.0)
    assert made > 0.8
    assert shared > 0.9 * made


def test_the_shared_spread_is_that_of_normal_noise() -> None:
    draw = np.random.default_rng(1)
    found = [shared_sd(draw.normal(0, 2, size=(6, 5)).tolist()) for _ in range(400)]
    assert np.mean(np.log([sd for sd in found if sd])) == pytest.approx(math.log(2), abs=0.03)
    assert shared_sd([[1.0, 1.0, 1.0, 1.0], [0.1, 0.1, 0.1, 0.1 + 1e-17 * 3]]) is None


def test_signs_are_scipys() -> None:
    assert sign_p([-1, -2, -1, 3, -1, -4, 0]) == pytest.approx(stats.binomtest(1, 6).pvalue)
    assert sign_p([0.0, 0.0]) == 1
    five = dict(enumerate([-1.0, -2.0, -1.0, -3.0, -1.5]))  # which cannot show it
    assert second_opinion(five, None, 1.0, 1).p_sign is None


@pytest.mark.parametrize("seeds", [4, 5, SKEW_SEEDS, 10, 20])
def test_the_flag_is_raised_on_normal_noise_as_often_as_is_said(seeds: int) -> None:
    draw = np.random.default_rng(seeds)
    raised = np.mean([odd_seeds(list(row)) is not None for row in draw.normal(size=(1_500, seeds))])
    assert 0.02 < raised <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / 1_500)


def test_a_seed_that_lies_apart_is_named_with_the_median() -> None:
    base = [1.0, 1.1, 1.2, 1.05, 1.15]
    apart = [0.01, 0.012, 0.009, 0.5, 0.011]
    (item,) = compare(runs_of(study({"relu": base, "gelu": [b + d for b, d in zip(base, apart, strict=True)]}))).items
    (said,) = [note for note in notes_of(item) if note.startswith("ODD SEEDS")]
    assert said == (
        "ODD SEEDS  gelu: seed 4 lies apart from the others (p < .001); the median is +0.011 beside the mean +0.108."
    )


def test_a_claim_that_only_its_own_calm_makes_is_said_to_rest_on_its_own_spread() -> None:
    draw = np.random.default_rng(4)
    base = draw.normal(1, 0.1, 5)
    losses = {"relu": list(base), "calm": list(base + 0.02 + draw.normal(0, 0.002, 5))}
    losses |= {f"v{place}": list(base + draw.normal(0, 0.2, 5)) for place in range(4)}
    calm, *others = compare(runs_of(study(losses))).items
    assert calm.verdict == "WORSE"
    assert " RESTS ON ITS OWN SPREAD: with that of all comparisons on the task (sd " in sentence_of(calm)
    assert not any("ROBUST" in sentence_of(item) for item in others)


def test_a_claim_that_was_calm_at_an_early_look_is_held_against_the_shared_spread_at_that_look() -> None:
    draw = np.random.default_rng(4)
    base = draw.normal(1, 0.1, 8)
    apart = np.concatenate([0.02 + draw.normal(0, 0.0005, 3), draw.normal(0.02, 0.2, 5)])
    losses = {"relu": list(base), "calm": list(base + apart)}
    losses |= {f"v{place}": list(base + draw.normal(0, 0.2, 8)) for place in range(4)}
    plan = {"looks": [3, 8], "max": 8, "spending": "pocock"}
    calm = compare(runs_of([replace(each, planned_looks=plan) for each in study(losses)])).items[0]
    assert (calm.verdict, calm.decided_before) == ("WORSE", True)
    assert calm.second
    assert (calm.second.p_shared or 0) > LEVEL
