"""Equal budgets: the variants of a sweep are made as large, or are trained as long, as one of them, the reference.

What is adjusted becomes an override of the run, and its record says why. What can be counted
is met here, before anything is written; time has to be measured, which `ablab.study.trials.pilot` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ablab.config import RunConfig
from ablab.config.overrides import BETWEEN_OVERRIDES, canonical
from ablab.config.schema import BudgetConfig
from ablab.errors import UserError
from ablab.results.run_context import BudgetReport
from ablab.study.planning.expand import Run
from ablab.study.planning.levers import LEVERS, Measured, pull
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.units import UNITS, Unit

TOLERANCE = 0.02  # of the reference's budget

Adjustment = tuple[list[str], BudgetReport]  # overrides, and what the record says of them


def meet_budgets(plan: list[Run], configs: Sequence[RunConfig], preflight: Preflight) -> tuple[list[Run], list[str]]:
    """The plan with every variant brought to the reference's budget on its task; a line for each that was adjusted.

    A budget of time is checked, and left for later.

    Args:
        configs: of the runs, their configs, checked.

    Raises:
        UserError: an unknown word, no run is the reference, or a variant cannot come within `TOLERANCE`.
    """
    budget = configs[0].budget
    if not budget.match:
        return plan, []
    unit = _unit(budget.match)
    lever = _lever(budget, unit)
    references = references_of(plan, configs)
    if unit.measure is None:
        return plan, []
    wanted = {task: unit.measure(config, preflight.task(config)) for task, (_, config) in references.items()}
    found: dict[str, Adjustment] = {}
    lines: list[str] = []
    met = []
    for run, config in zip(plan, configs, strict=True):
        if run.variant not in found:
            measured = Measured(run.variant or "the one variant", config, preflight.task(config), unit)
            own = wanted[task_of(run, config)]
            found[run.variant] = _reported(measured, pull(measured, own, lever), own, lines)
        overrides, report = found[run.variant]
        met.append(run.adjusted(overrides, budget=report))
    return met, lines


def refuse_for_one_run(config: RunConfig) -> None:
    """Raises UserError where a run by itself asks for the budget of others."""
    if config.budget.match:
        raise UserError("budget.match: there is nothing to be equal to in one run; add -m and sweep over variants")


def references_of(plan: Sequence[Run], configs: Sequence[RunConfig]) -> dict[tuple[str, ...], tuple[Run, RunConfig]]:
    """For each task the first run that has all overrides of the reference, the first run without one; and its config.

    Raises:
        UserError: there is none.
    """
    wanted = str(configs[0].budget.reference or "")
    parts = _values(BETWEEN_OVERRIDES.split(wanted) if wanted else [])
    references: dict[tuple[str, ...], tuple[Run, RunConfig]] = {}
    for run, config in zip(plan, configs, strict=True):
        if parts <= _values(run.overrides):
            references.setdefault(task_of(run, config), (run, config))
    if {task_of(run, config) for run, config in zip(plan, configs, strict=True)} - set(references):
        raise UserError(f"budget.reference={wanted}: no run of the sweep has these overrides")
    return references


def _values(overrides: Iterable[str]) -> set[tuple[str, str]]:
    pairs = (override.partition("=") for override in overrides)
    return {(key.strip(), canonical(value.strip())) for key, _, value in pairs}


def task_of(run: Run, config: RunConfig) -> tuple[str, ...]:
    """What a run learns, and under which of the conditions that are compared within: each has a budget of its own.

    Runs on one task with other settings have the same.
    """
    keys = {"task", *config.comparison.within}
    rung = [run.context.ladder.rung] if run.context.ladder else []
    return (*rung, *(o for o in run.overrides if o.partition("=")[0] in keys))


def adjustment(changes: dict[str, tuple[int, int]], value: float, wanted: float) -> Adjustment:
    """The overrides that a run is adjusted by, each change as (before, after), and what its record says of it."""
    changed = {key: [before, after] for key, (before, after) in changes.items()}
    return [f"{key}={after}" for key, (_, after) in changes.items()], BudgetReport(
        changed=changed, value=value, of=wanted
    )


def _reported(variant: Measured, settings: dict[str, int], wanted: int, lines: list[str]) -> Adjustment:
    """The adjustment; what was done is added to `lines`. Raises UserError where it does not meet the budget."""
    value = variant.with_(settings)
    off, plural = value / wanted - 1, variant.unit.plural
    changes = {key: (variant.before(key), after) for key, after in settings.items() if after != variant.before(key)}
    if abs(off) > TOLERANCE:
        raise UserError(
            f"{variant.name}: cannot meet the budget of {wanted:,} {plural} by {' and '.join(settings)}: "
            f"{', '.join(f'{key}={after}' for key, after in settings.items())} gives {value:,} ({off:+.1%}); "
            "choose another budget.adjust, budget.match or budget.reference"
        )
    if changes:
        shown = ", ".join(f"{key} {before:,} -> {after:,}" for key, (before, after) in changes.items())
        lines.append(f"{variant.name}: {shown} for {value:,} of {wanted:,} {plural} ({off:+.2%})")
    return adjustment(changes, value, wanted)


def _unit(match: str) -> Unit:
    if match not in UNITS:
        raise UserError(f"budget.match={match}: there are {', '.join(UNITS)}")
    return UNITS[match]


def _lever(budget: BudgetConfig, unit: Unit) -> str | None:
    """The one that is asked for. Raises UserError where it is none, or moves nothing of the unit."""
    lever = budget.adjust
    if lever is None:
        return None
    if lever not in LEVERS:
        raise UserError(f"budget.adjust={lever}: there are {', '.join(LEVERS)}")
    if lever not in unit.levers:
        raise UserError(f"budget.adjust={lever}: budget.match={budget.match} is met by {' or '.join(unit.levers)} only")
    return lever
