"""The baseline of a comparison: the variant that is asked for, that the study declares, or that comes first.

Or, where `previous` is asked for or declared, the one before each in the plan: of changes that are made one upon the
other (`design=steps`, `design=cumulative`) that says what each has added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from ablab.analysis.pairing import choices, variants
from ablab.config.nearest import nearest
from ablab.config.overrides import BETWEEN_OVERRIDES, canonical, same_value
from ablab.errors import UserError
from ablab.results.collect import Runs

PREVIOUS = "previous"  # in a variant's place: each is compared with the one before it in the plan


@dataclass(frozen=True)
class Baselines:
    """Whom each variant is compared with."""

    first: str  # which is compared with none
    steps: Mapping[str, str] = field(default_factory=dict)  # variant -> the one before it; none: all with the first

    def of(self, variant: str) -> str:
        return self.steps.get(variant, self.first)

    def behind(self, variant: str) -> list[str]:
        """It, and the variants that it follows, without the first."""
        found = [variant]
        while (before := self.of(found[-1])) != self.first:
            found.append(before)
        return found


def choose_baselines(runs: Runs, wanted: str | None = None) -> Baselines:
    """Whom each variant is compared with: `wanted`, what the study declares, or the first of the plan.

    Args:
        wanted: as `choose_baseline` takes it; or `previous`, where no variant is called so.

    Raises:
        UserError: as `choose_baseline` does; or runs of several plans have no one before them.
    """
    asked = wanted or declared_baseline(runs)
    if asked != PREVIOUS or PREVIOUS in variants(runs):
        return Baselines(choose_baseline(runs, wanted))
    planned = _in_order_of_the_plan(runs)
    return Baselines(planned[0], {variant: before for before, variant in pairwise(planned)})


def _in_order_of_the_plan(runs: Runs) -> list[str]:
    """The variants, each behind those that it follows on some task and seed: on none of them all need have ended."""
    studies = dict.fromkeys(record.study for record in runs.records)
    if len(studies) > 1:
        raise UserError(
            f"baseline {PREVIOUS}: these are runs of several studies ({', '.join(studies)}), each with an order of its "
            "own; compare them one by one"
        )
    follows: dict[str, dict[str, None]] = {variant: {} for variant in variants(runs)}
    rows: dict[tuple[str, int], list[tuple[int, str]]] = {}
    for (task, variant), places in runs.places.items():
        for record in (runs.records[place] for place in places):
            if record.index is not None:
                rows.setdefault((task, record.seed), []).append((record.index, variant))
    for row in rows.values():
        for (_, before), (_, variant) in pairwise(sorted(row)):
            follows[variant] |= {before: None} if before != variant else {}
    try:
        return [*TopologicalSorter(follows).static_order()]
    except CycleError:
        raise UserError(
            f"baseline {PREVIOUS}: these runs are of several plans, whose variants have no order in common; compare "
            "them one by one"
        ) from None


def declared_baseline(runs: Runs) -> str | None:
    """The baseline that the study of these runs declares, if all of them agree on one."""
    declared = {record.declared_baseline for record in runs.records}
    return declared.pop() if len(declared) == 1 else None


def choose_baseline(runs: Runs, wanted: str | None = None) -> str:
    """The variant that the others are compared with: the one that is wanted, else the one that the study declares as
    its baseline, else the first of the plan.

    Args:
        wanted: overrides such as "attention=full,activation=relu". Factors that it does not name keep the value of the
            first variant of the plan, which is also the baseline if nothing is wanted. Settings below a named axis
            (`attention.window` of `attention=windowed`) need not be named.

    Raises:
        UserError: an unknown factor or option, or no run of that combination.
    """
    known = variants(runs)
    if not wanted:
        with contextlib.suppress(UserError):  # a sweep that left the declared baseline out; `compare` says so
            return choose_baseline(runs, declared) if (declared := declared_baseline(runs)) else known[0]
        return known[0]
    if exact := next((variant for variant in known if variant == wanted or _same(variant, wanted)), None):
        return exact
    asked = dict(_override(runs, part) for part in BETWEEN_OVERRIDES.split(wanted))
    first = choices(runs, known[0])
    for variant in known:
        own = choices(runs, variant)
        if all(
            same_value(own[name], asked.get(name, first[name]))
            for name in own
            if name in asked or not _below(name, asked)
        ):
            return variant
    raise UserError(f"baseline {wanted}: no run of this combination; there are {', '.join(known)}")


def _same(variant: str, wanted: str) -> bool:
    """Whether they are the same overrides in the same order, with equal values."""
    pairs = [[part.partition("=") for part in BETWEEN_OVERRIDES.split(text)] for text in (variant, wanted)]
    given = [[(key.strip(), canonical(value.strip())) for key, _, value in each] for each in pairs]
    return given[0] == given[1]


def _below(name: str, asked: dict[str, str]) -> bool:
    return name.split(".")[0] in asked


def _override(runs: Runs, text: str) -> tuple[str, str]:
    """("attention", "full") from "attention=full", if some run has that."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UserError(
            f"baseline {text}: write it as factor=option, for example {variants(runs)[0]}; or {PREVIOUS}, for the "
            "variant before each"
        )
    fixed = {record.axes.get(name) for record in runs.records}
    if name not in runs.factors and {canonical(option) for option in fixed} == {canonical(value)}:
        return name, value  # true of every run, if not a factor
    if name not in runs.factors:
        raise UserError(f"baseline {text}: {name} is not a factor of these runs{nearest(name, runs.factors)}")
    options = runs.options[name]
    if not any(same_value(value, option) for option in options):
        raise UserError(f"baseline {text}: no run has {name}={value}{nearest(value, options)}")
    return name, value
