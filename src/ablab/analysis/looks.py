"""How often a study was analysed, how often it was to be, and what that leaves for each analysis.

Who adds seeds until a difference is significant will find one. A study that declares its looks beforehand
(`seeds.looks`, `seeds.max`) pays for them once, by a boundary under which all looks together err in `LEVEL`
(`ablab.analysis.sequential`, or `anytime` for one without an end). Each of its claims has a *sequential* p value: the
smallest level at which the boundary has been crossed, at this look or an earlier one, so that a decision once made
stands, and corrections for many comparisons work upon it (Maurer and Bretz 2013).

A study that declares nothing has the whole `LEVEL` at its first analysis, and `LEVEL` / j at the j-th. That is sensible
and not enough, since the first one did not know of the others. What it errs in is simulated, and said.

What counts as a look is read from everything that tells of one: the studies' own lists, what each record knew when it
was planned, and the seeds at hand, where no look has had all of them. It does not matter in which folders they lie.
A look at fewer than `FEWEST_SEEDS` seeds claims nothing and costs nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ablab.analysis.anytime import anytime_p, level_at
from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL
from ablab.analysis.sequential import Boundary, Shape, departing, error_of, fixed, spending
from ablab.analysis.simulated_looks import Sides, cells_of, nested
from ablab.analysis.study_notes import InterimAnalyses
from ablab.config import Node
from ablab.config.seeds import SPENDING, Spending
from ablab.results.collect import Runs

_SHAPES: dict[str, Shape] = {"obrien_fleming": "obrien_fleming", "lan_demets_obf": "obrien_fleming"}
_LEAST = 1e-6  # the level of a look for which nothing is left

PValue = Callable[[Sequence[float]], float]  # of some differences


@dataclass(frozen=True)
class Looks:
    """The analyses of a study so far, and those that were planned."""

    taken: tuple[tuple[int, ...], ...] = ()  # the seeds of each, the smaller first
    now: int = 0  # which of them is the present one
    planned: tuple[int, ...] = ()  # numbers of seeds
    most: int | None = None  # seeds that there will be; None: nothing was declared
    spending: Spending = "pocock"

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many seeds each look has."""
        return tuple(map(len, self.taken))

    @property
    def declared(self) -> bool:
        return self.most is not None or self.spending == "anytime"

    @property
    def several(self) -> bool:
        """Whether there is or will be more than one, so that each has less than the level of the study."""
        return len(self.taken) > 1 or (self.declared and bool(self.taken) and self.planned != self.sizes)

    @property
    def planned_several(self) -> bool:
        """Whether there are several by a plan, whose boundary is that of the paired t."""
        return self.declared and self.several

    @property
    def exceeded(self) -> bool:
        """Whether there are looks that nothing was left for."""
        if not self.declared:
            return len(self.taken) > 1
        return self.most is not None and self.spending != "anytime" and self.sizes[-1:] > (self.most,)

    def levels(self, alpha: float = LEVEL, sides: Sides = 2) -> tuple[float, ...]:
        """The level of each look taken, in a study, or a part of it, that may err in `alpha`."""
        if not self.several:
            return (alpha,) * len(self.taken)
        if self.spending == "anytime":
            found = tuple(level_at(size, alpha, sides) for size in self.sizes)
        elif not self.declared:
            found = tuple(alpha / (look + 1) for look in range(len(self.taken)))
        else:
            found = _boundary(self, sides).at(alpha)
        return tuple(max(level, _LEAST * alpha) for level in found)

    def level(self, alpha: float = LEVEL, sides: Sides = 2) -> float:
        """The level of the present look in a study, or a part of it, that may err in `alpha`."""
        if not self.several:
            return alpha
        # Fewer seeds than were looked at already are no earlier look, where none was planned.
        return self.levels(alpha, sides)[self.now if self.declared else -1]

    def until(self, seeds: Collection[int]) -> Looks:
        """The looks up to the first that has all of these seeds: of a comparison that has pairs on no others."""
        place = next((place for place, look in enumerate(self.taken) if set(seeds) <= set(look)), self.now)
        return replace(self, now=min(place, self.now))

    def p_value(self, differences: Mapping[int, float], p_of: PValue, sides: Sides = 2) -> float:
        """The sequential p value of a claim.

        Args:
            differences: by seed.
            p_of: the p value of some of them, `FEWEST_SEEDS` or more.
            sides: 2 for claims of a difference, which earlier looks may have decided where they point the same way.
        """
        if not self.several:
            return p_of(list(differences.values()))
        if not self.declared:
            return min(1.0, len(self.taken) * p_of(list(differences.values())))
        sign = math.copysign(1, math.fsum(differences.values()))
        pairs = [differences.keys() & set(look) for look in self.taken[: self.now + 1]]
        seen = [[differences[seed] for seed in sorted(each)] for each in pairs]
        # A look that brings no new pair is none: the same p would be held against the level of a later one.
        new = [not any(each <= before for before in pairs[:place]) for place, each in enumerate(pairs)]
        p_values = [
            p_of(each) if has and len(each) >= FEWEST_SEEDS and (sides == 1 or math.fsum(each) * sign > 0) else 1.0
            for each, has in zip(seen, new, strict=True)
        ]
        if self.spending == "anytime":
            return anytime_p(p_values, list(map(len, seen)), sides)
        return _boundary(self, sides).p_value(p_values)

    def error(self, comparisons: int = 1) -> float:
        """How often a study that is analysed so makes any false claim, at most, if none of `comparisons` has an effect.

        The comparisons share `LEVEL` as by Holm's method.
        """
        if not self.exceeded:
            return LEVEL
        count = max(comparisons, 1)
        return max(LEVEL, count * error_of(cells_of(self.taken), self.levels(LEVEL / count)))


ONE_LOOK = Looks()  # or none that is known


def planned_looks(sizes: Sequence[int], spending: Spending = "pocock") -> Looks:
    """The looks of a study that sticks to its plan, as they will be when it has come to its end."""
    taken = tuple(tuple(range(size)) for size in sizes)
    return Looks(taken, len(taken) - 1, tuple(sizes), max(sizes), spending)


def interim_analyses(looks: Looks, comparisons: int) -> InterimAnalyses | None:
    """The fact that a study has more than one look; None where it has not."""
    if not looks.several:
        return None
    seen = looks.sizes[: looks.now + 1] if looks.declared else looks.sizes
    return InterimAnalyses(seen, looks.level(), looks.error(comparisons), looks.most, looks.spending)


@lru_cache(maxsize=64)
def _boundary(looks: Looks, sides: Sides) -> Boundary:
    """The boundary of the looks taken. What lies beyond the plan has the level of its end, once more."""
    assert looks.most is not None
    within = [look for look in looks.taken if len(look) <= looks.most]
    parts = [_within(within, looks, sides)] if within else []
    if beyond := len(looks.taken) - len(within):
        end = parts[0] if looks.most in map(len, within) else _within([range(looks.most)], looks, sides)
        parts += [Boundary(end.levels[:, -1:], end.spent[:, -1:])] * beyond
    levels, spent = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("levels", "spent"))
    return Boundary(levels, spent)


def _within(taken: Sequence[Collection[int]], looks: Looks, sides: Sides) -> Boundary:
    """The boundary of looks that the plan has room for."""
    assert looks.most is not None
    shape, sizes = _SHAPES.get(looks.spending, "pocock"), [len(look) for look in taken]
    if looks.spending.startswith("lan_demets") or not looks.planned:
        return spending(cells_of(taken), shape, looks.most, sides)
    if set(sizes) <= set(looks.planned) and len(set(sizes)) == len(sizes):
        whole, columns = fixed(nested(looks.planned), shape, sides), [looks.planned.index(size) for size in sizes]
        return Boundary(whole.levels[:, columns], whole.spent[:, columns])
    return departing(cells_of(taken), nested(looks.planned), shape, sides)


def looks_of(runs: Runs) -> Looks:
    """The looks of the study of `runs`, whose seeds are looked at now."""
    present = frozenset(record.seed for record in runs.records if record.status in ("ok", "diverged"))
    told = [frozenset(look.seeds) for look in runs.interim_analyses if len(look.seeds) >= FEWEST_SEEDS]
    plan = _plan(runs)
    seeds = sorted(present.union(*told))
    planned = plan.planned if plan.spending != "anytime" else tuple(range(FEWEST_SEEDS, len(seeds) + 1))
    sizes = set(map(len, told))
    told += [frozenset(seeds[:size]) for size in planned if size not in sizes and size <= len(seeds)]
    if not any(present <= look for look in told):
        told.append(present)
    counted = {tuple(sorted(look)) for look in told if len(look) >= FEWEST_SEEDS}
    taken = sorted(counted, key=lambda look: (len(look), look))
    now = next((place for place, look in enumerate(taken) if present.issubset(look)), 0)
    return replace(plan, taken=tuple(taken), now=now)


def _plan(runs: Runs) -> Looks:
    """What the study of these runs declares of its looks, if all of them agree on it; else nothing."""
    declared = {json.dumps(record.planned_looks, sort_keys=True) for record in runs.records}
    plan: Node = (json.loads(declared.pop()) if len(declared) == 1 else None) or {}
    sizes = [size for size in _list(plan.get("looks")) if type(size) is int and size >= FEWEST_SEEDS]
    most = [size for size in (*sizes, plan.get("max")) if type(size) is int and size >= FEWEST_SEEDS]
    known = {name: name for name in SPENDING}
    return Looks(
        planned=tuple(sorted(set(sizes))),
        most=max(most, default=None),
        spending=known.get(str(plan.get("spending")), "pocock"),
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
