"""Studies of every kind to design, and what a rule means, said the slow way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import strategies as st

from ablab.study.designs import Factor, Variant

Rules = list[dict[str, object]]


@dataclass(frozen=True)
class Study:
    """Factors with at most one group of keys that advance together, and rules of which some are about a fixed key."""

    factors: tuple[Factor, ...]
    exclude: Rules
    fixed: dict[str, str]

    @property
    def combinations(self) -> list[Variant]:
        """All of them, admissible or not, in order."""
        rows = itertools.product(*(factor.levels for factor in self.factors))
        return [{key: value for level in row for key, value in level.items()} for row in rows]

    def forbids(self, variant: Mapping[str, str]) -> bool:
        whole = {**self.fixed, **variant}
        return any(
            all(whole.get(key) in (value if isinstance(value, list) else [value]) for key, value in rule.items())
            for rule in self.exclude
        )

    @property
    def admissible(self) -> list[Variant]:
        return [variant for variant in self.combinations if not self.forbids(variant)]


@st.composite
def _studies(draw: st.DrawFn, most: int, levels: int) -> Study:
    sizes = draw(st.lists(st.integers(1, levels), max_size=most))
    factors = []
    for place, size in enumerate(sizes):
        keys = [f"k{place}", f"k{place}.also"] if place == 1 else [f"k{place}"]
        factors.append(Factor(tuple({key: f"v{level // (1 + ('.' in key))}" for key in keys} for level in range(size))))
    fixed = {"fixed": "yes"}
    values = {key: sorted({level[key] for level in f.levels}) for f in factors for key in f.keys} | {"fixed": ["yes"]}
    rules = _rules(tuple((key, tuple(each)) for key, each in sorted(values.items())))
    return Study(tuple(factors), draw(rules), fixed)


@cache  # Hypothesis looks through each strategy that is new, which takes longer than to draw from it
def _rules(values: tuple[tuple[str, tuple[str, ...]], ...]) -> st.SearchStrategy[Rules]:
    names = st.sampled_from([key for key, _ in values])
    return st.lists(_rule(st.dictionaries(names, st.booleans(), min_size=1, max_size=3), dict(values)), max_size=5)


@st.composite
def _rule(
    draw: st.DrawFn, keys: st.SearchStrategy[dict[str, bool]], values: Mapping[str, tuple[str, ...]]
) -> dict[str, object]:
    return {key: draw(_part(values[key], several)) for key, several in draw(keys).items()}


@cache
def _part(values: tuple[str, ...], several: bool) -> st.SearchStrategy[Any]:
    one = st.sampled_from(values)
    return st.lists(one, min_size=1, unique=True) if several else one


@pytest.fixture(scope="session")
def studies() -> Callable[..., st.SearchStrategy[Study]]:
    """studies(most=4, levels=3): with so many factors and levels of each, at most."""

    def make(most: int = 4, levels: int = 3) -> st.SearchStrategy[Study]:
        return _studies(most, levels)

    return make


@pytest.fixture(scope="session")
def make_factors() -> Callable[..., list[Factor]]:
    """make_factors(3, 2): factors a and b with the levels a0, a1, a2 and b0, b1."""

    def make(*sizes: int) -> list[Factor]:
        names = "abcdefghijklmnopqrst"
        return [
            Factor.of(name, [f"{name}{level}" for level in range(size)])
            for name, size in zip(names, sizes, strict=False)
        ]

    return make
