"""Equal budgets: the variants of a sweep are made as large, or are trained as long, as one of them, the reference.

What is adjusted becomes an override of the run, and its record says why. What can be counted
is met here, before anything is written; time has to be measured, which `ablab.study.trials.pilot` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ablab.config import RunConfig
from ablab.config.overrides import BETWEEN_OVERRIDES, canonical
from ablab.config.schema import BudgetConfig
from ablab.errors import UserError
from ablab.results.record import BudgetReport
from ablab.study.planning.expand import Run
from ablab.study.planning.preflight import Preflight
from ablab.tasks.base import Task
from ablab.training.build import build_model
from ablab.training.cost import count_active_parameters, count_parameters, flops_of

TOLERANCE = 0.02  # of the reference's budget
WIDEST = 64  # times the hidden units that a variant has by itself

Adjustment = tuple[list[str], BudgetReport]  # overrides, and what the record says of them
D_FF, D_MODEL, STEPS = "model.d_ff", "model.d_model", "trainer.max_steps"


@dataclass(frozen=True)
class Unit:
    """What is to be equal, and how one says it."""

    plural: str
    measure: Callable[[RunConfig, Task], int] | None  # None: it cannot be counted
    levers: tuple[str, ...]  # what may be adjusted, the one that is unless another is asked for first


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
    adjust = _LEVERS[_lever(budget, unit)]
    references = references_of(plan, configs)
    if unit.measure is None:
        return plan, []
    wanted = {task: unit.measure(config, preflight.task(config)) for task, (_, config) in references.items()}
    found: dict[str, Adjustment] = {}
    lines: list[str] = []
    met = []
    for run, config in zip(plan, configs, strict=True):
        if run.variant not in found:
            measured = _Measured(run.variant or "the one variant", config, preflight.task(config), unit)
            own = wanted[task_of(run, config)]
            found[run.variant] = measured.reported(adjust(measured, own), own, lines)
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
    return tuple(o for o in run.overrides if o.partition("=")[0] in keys)


def adjustment(changes: dict[str, tuple[int, int]], value: float, wanted: float) -> Adjustment:
    """The overrides that a run is adjusted by, each change as (before, after), and what its record says of it."""
    changed = {key: [before, after] for key, (before, after) in changes.items()}
    return [f"{key}={after}" for key, (_, after) in changes.items()], BudgetReport(
        changed=changed, value=value, of=wanted
    )


@dataclass(frozen=True)
class _Measured:
    """A variant, and what it has of what is to be equal."""

    name: str
    config: RunConfig
    task: Task
    unit: Unit

    def with_(self, settings: dict[str, int]) -> int:
        """What it would have."""
        assert self.unit.measure is not None
        return self.unit.measure(self.config.with_values(settings), self.task)

    def before(self, key: str) -> int:
        axis, name = key.split(".")
        value: int | None = self.config.options[axis][name]
        return 4 * self.before(D_MODEL) if value is None else value

    def reported(self, settings: dict[str, int], wanted: int, lines: list[str]) -> Adjustment:
        """The adjustment; what was done is added to `lines`. Raises UserError where it does not meet the budget."""
        value = self.with_(settings)
        off, plural = value / wanted - 1, self.unit.plural
        changes = {key: (self.before(key), after) for key, after in settings.items() if after != self.before(key)}
        if abs(off) > TOLERANCE:
            raise UserError(
                f"{self.name}: cannot meet the budget of {wanted:,} {plural} by {' and '.join(settings)}: "
                f"{', '.join(f'{key}={after}' for key, after in settings.items())} gives {value:,} ({off:+.1%}); "
                "choose another budget.adjust, budget.match or budget.reference"
            )
        if changes:
            shown = ", ".join(f"{key} {before:,} -> {after:,}" for key, (before, after) in changes.items())
            lines.append(f"{self.name}: {shown} for {value:,} of {wanted:,} {plural} ({off:+.2%})")
        return adjustment(changes, value, wanted)


def _by_d_ff(variant: _Measured, wanted: int) -> dict[str, int]:
    """Hidden units of the feed-forward parts: the finest lever, which leaves heads and embeddings as they are."""
    before = variant.before(D_FF)
    if variant.with_({}) == wanted:
        return {D_FF: before}
    return {D_FF: _nearest(lambda width: variant.with_({D_FF: width}), wanted, WIDEST * before)}


def _by_steps(variant: _Measured, wanted: int) -> dict[str, int]:
    before, value = variant.before(STEPS), variant.with_({})
    if value == wanted:
        return {STEPS: before}
    highest = max(1, 2 * before * wanted // max(1, value))
    return {STEPS: _nearest(lambda steps: variant.with_({STEPS: steps}), wanted, highest)}


def _by_d_model(variant: _Measured, wanted: int) -> dict[str, int]:
    """The width of the stream, with hidden units in proportion, and these alone for what whole heads leave over."""
    before, hidden = variant.before(D_MODEL), variant.before(D_FF)
    if variant.with_({}) == wanted:
        return {D_MODEL: before}
    # Pairs of features, which rotary positions and their halves need, in every head.
    heads = 2 * variant.config.options["model"]["n_heads"]

    def scaled(count: int) -> dict[str, int]:
        width = heads * count
        return {D_MODEL: width, D_FF: max(1, round(hidden * width / before))}

    count = _nearest(lambda count: variant.with_(scaled(count)), wanted, max(2, WIDEST * before // heads))
    width = scaled(count)[D_MODEL]
    return {
        D_MODEL: width,
        D_FF: _nearest(lambda d_ff: variant.with_({D_MODEL: width, D_FF: d_ff}), wanted, WIDEST * hidden),
    }


def _nearest(measured: Callable[[int], int], wanted: int, highest: int) -> int:
    """The whole number from 1 to `highest` whose measure, which rises with it, is nearest to what is wanted."""
    low, high = 1, highest
    while high - low > 1:
        middle = (low + high) // 2
        if measured(middle) <= wanted:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda number: abs(measured(number) - wanted))


def _parameters(config: RunConfig, task: Task) -> int:
    return count_parameters(build_model(config, task, device="meta"))


def _active_parameters(config: RunConfig, task: Task) -> int:
    return count_active_parameters(build_model(config, task, device="meta"))


def _flops(config: RunConfig, task: Task) -> int:
    model = build_model(config, task, device="meta")
    per_sequence, _ = flops_of(model, task, lambda: build_model(config, task))
    if per_sequence is None:
        raise UserError("budget.match=flops: the FLOPs of a variant cannot be counted: use params, tokens or time")
    return per_sequence * task.batch_size * _batches(config)


def _tokens(config: RunConfig, task: Task) -> int:
    return task.tokens_per_batch * _batches(config)


def _batches(config: RunConfig) -> int:
    steps: int = config.trainer.max_steps * config.trainer.accumulate_grad_batches
    return steps


_UNITS = {
    "params": Unit("parameters", _parameters, ("d_ff", "d_model")),
    "active_params": Unit("active parameters", _active_parameters, ("d_ff", "d_model")),
    "flops": Unit("FLOPs", _flops, ("steps", "d_ff", "d_model")),
    "tokens": Unit("tokens", _tokens, ("steps",)),
    "time": Unit("seconds", None, ("steps",)),
}
_LEVERS = {"d_ff": _by_d_ff, "d_model": _by_d_model, "steps": _by_steps}


def _unit(match: str) -> Unit:
    if match not in _UNITS:
        raise UserError(f"budget.match={match}: there are {', '.join(_UNITS)}")
    return _UNITS[match]


def _lever(budget: BudgetConfig, unit: Unit) -> str:
    lever = budget.adjust or unit.levers[0]
    if lever not in _LEVERS:
        raise UserError(f"budget.adjust={lever}: there are {', '.join(_LEVERS)}")
    if lever not in unit.levers:
        raise UserError(f"budget.adjust={lever}: budget.match={budget.match} is met by {' or '.join(unit.levers)} only")
    return lever
