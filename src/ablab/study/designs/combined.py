"""Designs that combine the levels of factors: join what advances together, put the baseline in front, choose rows.

A row is the place of a level in each factor. Rows are all that such a design has to say.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ablab.study.designs.base import Conditions, Design, Designed, check_baseline
from ablab.study.designs.exclusions import Exclusions
from ablab.study.designs.factors import Factor, Variant, values_of, zip_factors

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
