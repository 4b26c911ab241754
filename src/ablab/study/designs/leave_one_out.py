"""Everything on, then one thing off at a time: what each contributes beside all the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ablab.study.designs.base import Designed
from ablab.study.designs.combined import Combined, Row, Space
from ablab.study.designs.factors import Factor, Variant, plain


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
