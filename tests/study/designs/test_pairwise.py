"""Every pair of levels that can be had is in some variant, in few variants, and what cannot be had is said."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.study.designs import Factor, Pairwise, Variant, covering
from ablab.study.designs.covering import Admissible

Make = Callable[..., list[Factor]]
Pair = frozenset[tuple[str, str]]


def pairs(factors: Iterable[Factor], variants: Iterable[Variant]) -> set[Pair]:
    """Of levels of two factors, each level by all its keys."""
    found = set()
    for variant in variants:
        levels = [tuple((key, variant[key]) for key in factor.keys) for factor in factors]
        found |= {frozenset(one + other) for one, other in itertools.combinations(levels, 2)}
    return found


@mock.patch.object(covering, "ARRAYS", 2)  # few are for other tests
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_exactly_the_pairs_of_all_admissible_combinations_are_covered(data: st.DataObject, studies: Any) -> None:
    study = data.draw(
        studies(most=5, levels=3).filter(lambda s: len(s.factors) > 1 and not s.forbids(s.combinations[0]))
    )
    designed = Pairwise(exclude=study.exclude).choose(study.factors, study.fixed)
    assert designed.variants[0] == study.combinations[0]
    assert not any(map(study.forbids, designed.variants))
    possible, all_pairs = pairs(study.factors, study.admissible), pairs(study.factors, study.combinations)
    assert pairs(study.factors, designed.variants) == possible
    given_up = [frozenset(part.items()) for part, _ in designed.excluded]
    assert len(given_up) == len(set(given_up))
    assert set(given_up) == all_pairs - possible
    assert len(designed.variants) <= len(study.admissible)


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ((3, 3, 3, 3), 9),
        ((2,) * 10, 8),
        ((3, 3, 3, 2, 2), 9),
        ((2, 2, 2), 4),
        ((4, 4), 16),
        ((6, 4, 3, 2), 24),
        ((1, 3, 1), 3),
        ((3, 3) + (1,) * 4, 9),
        ((4,) * 5, 19),
        ((3,) * 13, 20),
    ],
)
def test_few_variants_are_enough(sizes: tuple[int, ...], most: int, make_factors: Make) -> None:
    factors = make_factors(*sizes)
    variants = Pairwise().choose(factors).variants
    assert len(pairs(factors, variants)) == sum(one * other for one, other in itertools.combinations(sizes, 2))
    assert len(variants) <= most


@pytest.mark.parametrize("n_rules", [0, 20])
def test_many_factors_are_quick(n_rules: int, make_factors: Make) -> None:
    draw = random.Random(0)
    rules: list[dict[str, object]] = [
        {key: f"{key}{draw.randrange(1, 5)}" for key in draw.sample("abcdefghijkl", draw.choice([2, 3]))}
        for _ in range(n_rules)
    ]
    before = time.process_time()
    designed = Pairwise(exclude=rules).choose(make_factors(*[5] * 12))
    assert time.process_time() - before < 2
    assert len(designed.variants) <= 50
    assert {words.count("=") for _, words in designed.excluded} <= {2}  # only pairs that a rule of two forbids


def test_a_single_factor_has_all_its_levels(make_factors: Make) -> None:
    designed = Pairwise(exclude=[{"a": "a1"}]).choose(make_factors(3))
    assert designed.variants == [{"a": "a0"}, {"a": "a2"}]
    assert designed.excluded == [({"a": "a1"}, "a=a1")]


def test_a_pair_that_a_rule_forbids_is_said(make_factors: Make) -> None:
    designed = Pairwise(exclude=[{"a": "a1", "b": ["b1", "b2"]}]).choose(make_factors(2, 3, 2))
    assert designed.excluded == [
        ({"a": "a1", "b": "b1"}, "a=a1, b=b1"),
        ({"a": "a1", "b": "b2"}, "a=a1, b=b2"),
    ]


def test_a_pair_that_several_rules_leave_nothing_for_is_said_with_these_rules(make_factors: Make) -> None:
    rules: list[dict[str, Any]] = [
        {"a": "a1", "c": "c0"},
        {"c": "c2", "seed": "9"},  # another seed's, which forbids nothing
        {"b": "b1", "c": ["c1", "c2"]},
        {"a": "a1", "b": "b2", "d": "d1"},  # not to blame
    ]
    designed = Pairwise(exclude=rules).choose(make_factors(2, 3, 3, 2), {"seed": "0"})
    told = {tuple(part.values()): words for part, words in designed.excluded}
    assert told == {
        ("a1", "c0"): "a=a1, c=c0",
        ("b1", "c1"): "b=b1, c=c1",
        ("b1", "c2"): "b=b1, c=c2",
        ("a1", "b1"): "a=a1, c=c0; b=b1, c=c1 or c2",
    }


def test_a_pair_that_is_lost_only_case_by_case_is_seen(make_factors: Make) -> None:
    rules: list[dict[str, object]] = [
        {"a": "a1", "c": "c0", "d": "d0"},
        {"a": "a1", "c": "c1", "d": "d1"},
        {"b": "b1", "c": "c0", "d": "d1"},
        {"b": "b1", "c": "c1", "d": "d0"},
    ]
    [(part, words)] = Pairwise(exclude=rules).choose(make_factors(2, 2, 2, 2)).excluded
    assert part == {"a": "a1", "b": "b1"}
    assert words.split("; ") == [", ".join(f"{key}={value}" for key, value in rule.items()) for rule in rules]


def test_a_level_without_any_combination_loses_all_its_pairs(make_factors: Make) -> None:
    designed = Pairwise(exclude=[{"a": "a1"}]).choose(make_factors(2, 2, 2))
    assert [tuple(part.values()) for part, _ in designed.excluded] == [
        ("a1", "b0"),
        ("a1", "b1"),
        ("a1", "c0"),
        ("a1", "c1"),
    ]
    assert len(designed.variants) == 4


def test_what_can_be_completed_is_what_some_row_completes() -> None:
    draw = random.Random(0)
    outcomes = []
    for _ in range(400):
        sizes = [draw.randint(2, 3) for _ in range(draw.randint(3, 5))]
        bans = [
            {place: draw.sample(range(sizes[place]), draw.randint(1, sizes[place] - 1)) for place in places}
            for places in (draw.sample(range(len(sizes)), draw.choice([2, 3, 3])) for _ in range(draw.randint(4, 24)))
        ]
        rows = [
            row
            for row in itertools.product(*map(range, sizes))
            if not any(all(row[place] in levels for place, levels in ban.items()) for ban in bans)
        ]
        space = Admissible(sizes, bans)
        chosen = [(place, draw.randrange(sizes[place])) for place in draw.sample(range(len(sizes)), draw.randint(0, 2))]
        outcomes.append(any(all(row[place] == level for place, level in chosen) for row in rows))
        assert space.completable(space.having(chosen)) == outcomes[-1], (sizes, bans, chosen)
    assert 100 < sum(outcomes) < 300  # both happen, often


def test_a_choice_that_is_closed_leaves_nothing_open() -> None:
    space = Admissible([2, 2, 2], [{0: [0], 1: [0]}])
    assert space.having([(0, 0), (1, 1), (2, 0)])
    assert not space.having([(0, 0), (1, 0)])
    assert not space.having([(0, 0), (1, 0), (2, 0)])  # nor does a choice that no ban is about open it again
    assert not space.chosen(space.bit(0, 0), 2, space.bit(2, 1))
