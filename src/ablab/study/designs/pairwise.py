"""Every pair of levels in some variant: interactions of two factors are seen, in few variants for many factors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from ablab.study.designs.base import Designed
from ablab.study.designs.combined import Combined, Row, Space
from ablab.study.designs.covering import Admissible, Ban, Pair, covering_rows
from ablab.study.designs.factors import Level, Rule, plain, rule_in_words


@dataclass(frozen=True, kw_only=True)
class Pairwise(Combined):
    """Few variants that hold every pair of levels of two factors. The reference has the first level of every factor.

    No variant breaks a rule; a pair is given up only where every combination that holds it breaks one, and is then
    among the excluded ones. Of a single factor all levels are variants.
    """

    def _among(self, space: Space) -> Designed:
        if len(space.factors) < 2:
            return super()._among(space)
        space.conditions.demand("reference", space.variant(space.first))
        bans = _bans(space)
        rows, impossible = covering_rows(Admissible(space.sizes, [ban for _, ban in bans]))
        excluded = []
        for pair in impossible:
            part = space.part(pair)
            excluded.append((part, space.conditions.broken(part) or _why(pair, space, bans)))
        return Designed([space.variant(row) for row in rows], excluded)

    def _rows(self, space: Space) -> Iterable[Row]:
        return itertools.product(*map(range, space.sizes))


def _bans(space: Space) -> list[tuple[Rule, Ban]]:
    """The rules that what is fixed leaves open, each by places of factors and levels."""
    varied = {key for factor in space.factors for key in factor.keys}
    fixed = {key: plain(value) for key, value in space.conditions.fixed.items()}
    bans: list[tuple[Rule, Ban]] = []
    for rule in space.conditions.rules.rules:
        ban = {
            place: [number for number, level in enumerate(factor.levels) if _matches(rule, level)]
            for place, factor in enumerate(space.factors)
            if not rule.keys().isdisjoint(factor.keys)
        }
        if all(fixed[key] in values for key, values in rule.items() if key not in varied):
            bans.append((rule, ban))
    return bans


def _matches(rule: Rule, level: Level) -> bool:
    return all(plain(value) in rule[key] for key, value in level.items() if key in rule)


def _why(pair: Pair, space: Space, bans: list[tuple[Rule, Ban]]) -> str:
    """The rules, none too many, that together leave nothing which holds the pair."""
    needed = list(bans)
    for one in bans:
        fewer = [other for other in needed if other is not one]
        left = Admissible(space.sizes, [ban for _, ban in fewer])
        if not left.completable(left.having(pair)):
            needed = fewer
    return "; ".join(rule_in_words(rule) for rule, _ in needed)
