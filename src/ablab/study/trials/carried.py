"""What tuning has found at the smallest size of a ladder, carried on to the others by the ladder's rule of the rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ablab.study.planning.expand import Run
from ablab.study.planning.rungs import RATE, scaled_rate


def first_size(plan: Sequence[Run]) -> list[Run]:
    """The runs that are tuned themselves: of a ladder those at its smallest size, which the others follow."""
    return [run for run in plan if run.context.ladder is None or run.context.ladder.place == 0]


def carry_tuned(plan: Sequence[Run], tune: Callable[[list[Run]], Iterable[Run]]) -> list[Run]:
    """The plan tuned: as it is without a ladder; with one at its smallest size alone, and carried on by its rules.

    Args:
        tune: gives runs what was found out for them.
    """
    first = first_size(plan)
    tuned = list(tune(first))
    if len(first) == len(plan):
        return tuned
    found = {_across(before): (before, after) for before, after in zip(first, tuned, strict=True)}
    return [_carried(run, *found[_across(run)]) for run in plan]


def _across(run: Run) -> tuple[str, str]:
    """The variant and the seed of a run, at whatever size of the ladder."""
    assert run.context.ladder is not None
    variant = run.variant.removeprefix(run.context.ladder.rung).removeprefix(",")
    return variant, next((override for override in run.overrides if override.startswith("seed=")), "")


def _carried(run: Run, before: Run, after: Run) -> Run:
    """A run with what was found out for its variant at the first size."""
    ladder = run.context.ladder
    assert ladder is not None
    added = [override for override in after.overrides if override not in before.overrides]
    overrides = [_scaled(override, ladder.rate_factor) for override in added]
    return replace(
        run, overrides=[*run.overrides, *overrides], context=replace(run.context, tuning=after.context.tuning)
    )


def _scaled(override: str, factor: float) -> str:
    key, _, value = override.partition("=")
    return f"{key}={scaled_rate(float(value), factor)!r}" if key == RATE and factor != 1 else override
