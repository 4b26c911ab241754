"""All pairs of variants: by scipy, and the level of all claims on fronts, counted in simulated studies."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from synthetic import ended, runs_of, study

from ablab.analysis.comparison import compare
from ablab.analysis.estimates import LEVEL, holm
from ablab.analysis.pareto import front
from ablab.analysis.ranking import Pair, pairs_of, rank, resolved_pairs
from ablab.results.record import Direction, Record

STUDIES = 600
HIGHEST = LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / STUDIES)


def of(losses: dict[str, list[float]], direction: Direction = "min") -> frozenset[Pair]:
    values = {name: dict(enumerate(each)) for name, each in losses.items()}
    return frozenset(pair.names for pair in resolved_pairs(pairs_of("language", values, direction), LEVEL))


def ranked(records: list[Record], direction: Direction = "min") -> frozenset[Pair]:
    runs = runs_of(records)
    return rank(runs, compare(runs), {"language": direction}).better["language"]


def test_pairs_are_paired_t_tests_with_holms_correction() -> None:
    draw = np.random.default_rng(2)
    losses = {name: list(draw.normal(shift, 1, 6)) for name, shift in (("a", 0), ("b", 1.2), ("c", 3), ("d", 3.1))}
    names = list(itertools.combinations(losses, 2))
    p = holm([float(stats.ttest_rel(losses[one], losses[other]).pvalue) for one, other in names])
    expected = {pair for pair, adjusted in zip(names, p, strict=True) if adjusted < LEVEL}
    assert 0 < len(expected) < len(names)
    assert of(losses) == expected
    assert of(losses, "max") == {(worse, better) for better, worse in expected}


def test_what_diverged_is_not_ranked_and_two_seeds_resolve_nothing() -> None:
    apart = {"relu": [1.0, 1.1, 1.2, 1.3], "gelu": [0.5, 0.61, 0.7, 0.79], "glu": [0.1, 0.2, 0.31, 0.4]}
    records = study(apart)
    relu, gelu, glu = "activation=relu", "activation=gelu", "activation=glu"
    assert ranked(records) == {(gelu, relu), (glu, relu), (glu, gelu)}
    records.append(ended("diverged", "train_loss became nan", 5, axes={"activation": "glu"}))
    assert ranked(records) == {(gelu, relu)}
    assert ranked(study({name: values[:2] for name, values in apart.items()})) == frozenset()


def test_ties_of_a_metric_told_in_steps_order_nothing_and_counted_costs_do() -> None:
    """Four pairs that differ by the same have agreed four times by chance in an eighth of studies."""
    tied = {"a": dict.fromkeys(range(4), 0.9), "b": dict.fromkeys(range(4), 0.95)}
    assert resolved_pairs(pairs_of("language", tied, "max"), LEVEL) == []
    assert [pair.names for pair in resolved_pairs(pairs_of("language", tied, "max", counted=True), LEVEL)] == [
        ("b", "a")
    ]


def test_variants_alike_in_a_coarse_accuracy_are_seldom_ordered() -> None:
    draw = np.random.default_rng(3)
    any_false = 0
    for _ in range(STUDIES):
        table = draw.binomial(4, 0.5, (10, 4)) / 4
        any_false += bool(of({f"v{place}": list(row) for place, row in enumerate(table)}, "max"))
    assert any_false / STUDIES <= HIGHEST


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("variants", "noisy"), [(1, 1.0), (5, 1.0), (5, 5.0)])
def test_equals_that_cost_more_are_rarely_on_the_front(seeds: int, variants: int, noisy: float) -> None:
    """By means some of them would be in .49 and .83 of studies. Nor is any of them off it more often."""
    draw = np.random.default_rng([seeds, variants])
    scale = np.ones(variants + 1)
    scale[1] = noisy
    price = {f"v{place}": 1.0 + place for place in range(variants + 1)}
    on = off = means = 0
    for _ in range(STUDIES):
        table = draw.normal(size=(variants + 1, seeds)) * scale[:, None] + draw.normal(size=seeds) * 2
        members = list(front(price, of({name: list(row) for name, row in zip(price, table, strict=True)})).values())
        on += "on" in members[1:]
        off += "off" in members
        means += table[1:].mean(1).min() < table[0].mean()
    assert (on + off) / STUDIES <= HIGHEST
    assert means / STUDIES > 0.4
