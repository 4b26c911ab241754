"""Equal budgets: the variants of a sweep are made as large, or are trained as long, as one of them, the reference.

What is adjusted becomes an override of the run, so that its frozen config holds it and says why.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ablab.errors import UserError
from ablab.study.preflight import Preflight
from ablab.tasks.base import Task
from ablab.training.build import build_model
from ablab.training.cost import count_flops, count_parameters

TOLERANCE = 0.02  # of the reference's budget
WIDEST = 64  # times the hidden units that a variant has by itself

Config = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """What is to be equal, and how one says it."""

    plural: str
    measure: Callable[[Config, Task], int]
    lever: str  # what is adjusted unless another is asked for


def meet_budgets(plan: list[list[str]], configs: Sequence[Config], preflight: Preflight) -> list[list[str]]:
    """The plan with the overrides that bring every variant to the reference's budget, printed one line per variant.

    Args:
        plan: overrides of each run.
        configs: their frozen configs, checked.

    Raises:
        UserError: an unknown word, no run is the reference, or a variant cannot come within `TOLERANCE`.
    """
    budget = configs[0]["budget"]
    if not budget["match"]:
        return plan
    unit = _unit(budget["match"])
    lever = budget["adjust"] or unit.lever
    _check_lever(budget["match"], lever)
    reference = configs[_reference(plan, budget["reference"])]
    wanted = unit.measure(reference, preflight.task(reference))
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    met = []
    for overrides, config in zip(plan, configs, strict=True):
        name = config.get("variant") or "the one variant"
        if name not in found:
            found[name] = _adjust(name, config, preflight.task(config), unit, lever, wanted, lines)
        met.append([*overrides, *found[name]])
    for line in lines:
        print(line)
    return met


def refuse_for_one_run(config: Config) -> None:
    """Raises UserError where a run by itself asks for the budget of others."""
    if config["budget"]["match"]:
        raise UserError("budget.match: there is nothing to be equal to in one run; add -m and sweep over variants")


def _adjust(name: str, config: Config, task: Task, unit: Unit, lever: str, wanted: int, lines: list[str]) -> list[str]:
    """The overrides of one variant; what was done is added to `lines`."""
    key, before = _LEVERS[lever](config)
    value = unit.measure(config, task)
    after = before
    if value != wanted:
        highest = before * WIDEST if lever == "width" else max(1, 2 * before * wanted // max(1, value))

        def measured(setting: int) -> int:
            return unit.measure(_with(config, key, setting), task)

        after = _nearest(measured, wanted, highest)
        value = measured(after)
    off = value / wanted - 1
    if abs(off) > TOLERANCE:
        raise UserError(
            f"{name}: cannot meet the budget of {wanted:,} {unit.plural} by {key}: {key}={after} gives {value:,} "
            f"({off:+.1%}); choose another budget.adjust, budget.match or budget.reference"
        )
    if after != before:
        lines.append(f"{name}: {key} {before:,} -> {after:,} for {value:,} of {wanted:,} {unit.plural} ({off:+.2%})")
    told = {"changed": key if after != before else "null", "was": before, "value": value, "of": wanted}
    changes = [f"{key}={after}"] if after != before else []
    return [*changes, *(f"budget.{word}={number}" for word, number in told.items())]


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


def _parameters(config: Config, task: Task) -> int:
    return count_parameters(build_model(config, task, device="meta"))


def _flops(config: Config, task: Task) -> int:
    model = build_model(config, task, device="meta")
    per_sequence = count_flops(model, task.loss, task.seq_len)[0]
    return per_sequence * task.batch_size * _batches(config)


def _tokens(config: Config, task: Task) -> int:
    return task.tokens_per_batch * _batches(config)


def _batches(config: Config) -> int:
    steps: int = config["trainer"]["max_steps"] * config["trainer"]["accumulate_grad_batches"]
    return steps


_UNITS = {
    "params": Unit("parameters", _parameters, "width"),
    "flops": Unit("FLOPs", _flops, "steps"),
    "tokens": Unit("tokens", _tokens, "steps"),
}


def _unit(match: str) -> Unit:
    if match not in _UNITS:
        raise UserError(f"budget.match={match}: there are {', '.join(_UNITS)}")
    return _UNITS[match]


def _check_lever(match: str, lever: str) -> None:
    if lever not in _LEVERS:
        raise UserError(f"budget.adjust={lever}: there are {', '.join(_LEVERS)}")
    if (match, lever) in (("params", "steps"), ("tokens", "width")):
        raise UserError(f"budget.adjust={lever} does not change what budget.match={match} counts")


def _width(config: Config) -> tuple[str, int]:
    """Hidden units of the feed-forward parts: the finest lever, which leaves heads and embeddings as they are."""
    model = config["model"]
    return "model.d_ff", model["d_ff"] or 4 * model["d_model"]


def _steps(config: Config) -> tuple[str, int]:
    return "trainer.max_steps", config["trainer"]["max_steps"]


_LEVERS = {"width": _width, "steps": _steps}


def _with(config: Config, key: str, setting: int) -> Config:
    changed = copy.deepcopy(config)
    axis, name = key.split(".")
    changed[axis][name] = setting
    return changed


def _reference(plan: list[list[str]], wanted: str | None) -> int:
    """The index of the first run that has all overrides of the reference; the first run without one."""
    if not wanted:
        return 0
    parts = {part.strip() for part in str(wanted).split(",")}
    for index, overrides in enumerate(plan):
        if parts <= set(overrides):
            return index
    raise UserError(f"budget.reference={wanted}: no run of the sweep has these overrides")
