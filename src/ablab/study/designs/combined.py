"""Designs that combine the levels of factors: every combination, one at a time, all but one, or one after the other.

They join what advances together, put the baseline in front, and choose rows.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ablab.study.designs.base import Conditions, Design, Designed, check_baseline
from ablab.study.designs.factors import Exclusions, Factor, Variant, plain, values_of, zip_factors

Row = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Space:
    """All that could be chosen: the factors in their final order, the baseline that was declared, and the rules."""

    factors: list[Factor]
    baseline: Mapping[str, str]
    conditions: Conditions

    @property
    def sizes(self) -> list[int]:
        return [len(factor.levels) for factor in self.factors]

    @property
    def first(self) -> Row:
        """The first level of every factor."""
        return (0,) * len(self.factors)

    def variant(self, row: Row) -> Variant:
        return self.part(enumerate(row))

    def part(self, chosen: Iterable[tuple[int, int]]) -> Variant:
        """The keys and values of some factors, each given as (factor, level)."""
        return {key: value for factor, level in chosen for key, value in self.factors[factor].levels[level].items()}


class Combined(Design):
    """A design that is made of rows."""

    def _choose(self, factors: Sequence[Factor], fixed: Mapping[str, str], baseline: Mapping[str, str]) -> Designed:
        joined = [factor.distinct() for factor in zip_factors(factors, self.zip or [])]
        varied, rules = values_of(joined), Exclusions(self.exclude)
        rules.check(varied, fixed)
        check_baseline(baseline, varied, fixed)
        conditions = Conditions(rules=rules, fixed=fixed)
        return self._among(Space(factors=self._ordered(joined, baseline), baseline=baseline, conditions=conditions))

    def _ordered(self, factors: list[Factor], baseline: Mapping[str, str]) -> list[Factor]:
        return [factor.led_by(baseline) for factor in factors]

    def _among(self, space: Space) -> Designed:
        variants = [space.variant(row) for row in dict.fromkeys(self._rows(space))]
        space.conditions.demand("reference", variants[0])
        return space.conditions.sift(variants)

    @abstractmethod
    def _rows(self, space: Space) -> Iterable[Row]:
        """What the design wants, the reference first, whether a rule forbids it or not."""


@dataclass(frozen=True, kw_only=True)
class Factorial(Combined):
    """The Cartesian product, the last factor fastest. The reference has the first level of every factor."""

    def _rows(self, space: Space) -> Iterable[Row]:
        return itertools.product(*map(range, space.sizes))


@dataclass(frozen=True, kw_only=True)
class OneFactor(Combined):
    """The first level of every factor, which is the reference; then each other level by itself."""

    def _rows(self, space: Space) -> Iterable[Row]:
        yield space.first
        for place, size in enumerate(space.sizes):
            for level in range(1, size):
                yield (*space.first[:place], level, *space.first[place + 1 :])


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(Combined):
    """The last level of every factor, which is the reference; then one factor at a time at each of its other levels.

    A declared baseline says what is off: its levels are never the last, and it is run as well, at the end.
    A baseline that is the reference itself adds nothing.
    """

    def _ordered(self, factors: list[Factor], baseline: Mapping[str, str]) -> list[Factor]:
        led = super()._ordered(factors, baseline)  # refuses levels that do not exist
        return led if _is_off(baseline, factors) else factors

    def _among(self, space: Space) -> Designed:
        if _is_off(space.baseline, space.factors):
            space.conditions.demand("baseline", space.variant(space.first))
        return super()._among(space)

    def _rows(self, space: Space) -> Iterable[Row]:
        everything = tuple(size - 1 for size in space.sizes)
        yield everything
        for place, last in enumerate(everything):
            for level in range(last):
                yield (*everything[:place], level, *everything[place + 1 :])
        if _is_off(space.baseline, space.factors):
            yield space.first


def _is_off(baseline: Mapping[str, str], factors: list[Factor]) -> bool:
    """Whether a baseline is declared that differs from everything on."""
    on: Variant = {key: value for factor in factors for key, value in factor.levels[-1].items()}
    return any(key in on and plain(on[key]) != plain(value) for key, value in baseline.items())


@dataclass(frozen=True, kw_only=True)
class Cumulative(Combined):
    """The first level of every factor, which is the reference; then each further level in turn, kept from then on.

    A step that a rule forbids is left out, and the next ones go on from where it would have led.
    """

    def _rows(self, space: Space) -> Iterable[Row]:
        row = list(space.first)
        yield tuple(row)
        for place, size in enumerate(space.sizes):
            for level in range(1, size):
                row[place] = level
                yield tuple(row)
