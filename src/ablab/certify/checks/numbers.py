"""Whether each number that an optimizer or a schedule is given has an effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from ablab.certify.checks.schedules import TOTAL, ScheduleSubject
from ablab.certify.checks.small import OptimizerSubject, Small, train
from ablab.certify.outcomes import Skipped, require
from ablab.config import Node
from ablab.config.signature import settings_of
from ablab.config.targets import import_target
from ablab.config.value_types import is_number
from ablab.training.optimizers.groups import build_optimizer

STEPS = 12
LENGTH = "total_steps"  # the run's and not the option's


def of_optimizer(subject: OptimizerSubject) -> str:
    """Another value of each of its numbers changes what some steps make of a small model."""

    def course(node: Node) -> Tensor:
        model = Small()
        optimizer: Any = build_optimizer(instantiate(node, _convert_="all"), model)
        getattr(optimizer, "train", lambda: None)()
        train(model, optimizer, range(STEPS))
        return torch.cat([each.detach().flatten() for each in model.parameters()])

    return _each(subject, course)


def of_schedule(subject: ScheduleSubject) -> str:
    """Another value of each of its numbers changes the course of the rates; of one that goes by gradients or
    evaluations, which need not come to a bound here, of some."""
    schedule = subject.run().schedule
    by_step = not getattr(schedule, "reads_gradients", False) and not hasattr(schedule, "evaluated")
    return _each(subject, lambda node: torch.tensor(subject.run(node=node).take(TOTAL)), every=by_step)


def _each(subject: Any, course: Callable[[Node], Tensor], *, every: bool = True) -> str:
    plain, tried, idle = course(subject.node), [], []
    for name, value in _numbers(subject).items():
        found = [_moves(course, {**subject.node, name: other}, plain) for other in _others(value)]
        known = [each for each in found if each is not None]
        tried += [name] if any(known) else []
        idle += [f"{name} ({value!r}, and {len(known)} others tried)"] if known and not any(known) else []
    require(not idle or bool(tried and not every), f"nothing hangs on {', '.join(idle)}")
    if not tried:
        raise Skipped("it has no numbers to set")
    rest = f"; not seen to: {', '.join(idle)}" if idle else ""
    return f"{len(tried)} numbers change what it does: {', '.join(tried)}{rest}"


def _numbers(subject: Any) -> Node:
    taken = settings_of(import_target(subject.axis.name, subject.node["_target_"]))
    defaults = {name: each.default for name, each in taken.items() if each.default is not each.empty}
    own = {name: subject.node.get(name, defaults.get(name)) for name in taken}
    return {
        name: value
        for name, value in own.items()
        if name not in (LENGTH, *subject.axis.supplied) and all(map(is_number, _listed(value))) and _listed(value)
    }


def _moves(course: Callable[[Node], Tensor], node: Node, plain: Tensor) -> bool | None:
    """Whether a value changes anything; None where it is refused."""
    try:
        return not torch.equal(course(node), plain)
    except Exception:  # whatever somebody's code makes of a value out of its range
        return None


def _others(value: Any) -> Iterator[Any]:
    """Other values: of a number smaller and larger ones, of a list those of each entry in turn."""
    if not isinstance(value, list | tuple):
        yield from _other_numbers(value)
        return
    for place, each in enumerate(value):
        yield from ([*value[:place], other, *value[place + 1 :]] for other in _other_numbers(each))


def _other_numbers(value: float) -> Iterator[float]:
    if isinstance(value, int):
        yield from (each for each in (value // 2, value + 1, 2 * value, 1, 5) if each != value)
    else:
        yield from (each for each in (value / 2, 0.9, 2 * value, 1e4 * value, value + 0.1) if each != value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
