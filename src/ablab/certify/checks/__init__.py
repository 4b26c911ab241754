"""The checks of each axis, a file for each topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ablab.certify.checks import (
    building,
    causality,
    claims,
    cost,
    counted,
    decoding,
    effects,
    engagement,
    graphs,
    independence,
    learning,
    mechanism,
    numbers,
    optimizers,
    padding,
    precision,
    resume,
    schedules,
    sharding,
    small,
    tasks,
)
from ablab.certify.subject import Subject
from ablab.certify.target import Target
from ablab.config import AXES

# What a check does: the line of one that passes; it raises `Failed` or `Skipped`.
Measure = Callable[[Any], str]

_COMPONENT: dict[str, Measure] = {
    "settings": building.settings,
    "builds": building.builds,
    "seeds": independence.seeds,
    "runs": learning.runs,
    "future": causality.future,
    "future-gradients": causality.gradients_of_future,
    "targets": causality.targets_unseen,
    "padding": padding.padding,
    "cut": padding.padded_like_cut,
    "batch": independence.batch,
    "repeats": independence.repeats,
    "lengths": independence.lengths,
    "gradients": learning.reached,
    "differences": learning.differences,
    "differs": engagement.differs,
    "knock-out": engagement.counts,
    "parameters": engagement.parameters_count,
    "effects": effects.effects,
    "identity": engagement.identity,
    "dtypes": precision.dtypes,
    "float64": precision.whole_precision,
    "extremes": precision.extremes,
    "memory": precision.memory,
    "compile": graphs.compiles,
    "resume": resume.resumes,
    "copies": resume.copies,
    "registered": sharding.registered,
    "devices": sharding.devices,
    "microbatches": sharding.microbatches,
    "shards": sharding.sharded,
    "decoding": decoding.decodes,
    "mechanism": mechanism.tells,
    "visits": mechanism.visits,
    "claims": claims.holds,
    "ahead": claims.ahead,
    "scale": cost.scale,
    "cost": cost.costs,
    "flops": counted.flops,
    "cache": counted.cache,
}


_OTHERS: dict[str, tuple[Callable[[Target], Any], Iterable[tuple[str, Measure]]]] = {
    "optimizer": (
        small.OptimizerSubject,
        [*optimizers.measures(), ("effects", numbers.of_optimizer)],
    ),
    "schedule": (schedules.ScheduleSubject, [*schedules.measures(), ("effects", numbers.of_schedule)]),
    "task": (tasks.TaskSubject, [*tasks.measures()]),
}


@dataclass(frozen=True)
class Checks:
    """The checks of one target, and what they are made on."""

    subject: Any
    all: Mapping[str, Measure]


def checks_of(target: Target) -> Checks | None:
    """Those of a target; None where its axis computes nothing."""
    name = target.axis.name
    if target.axis.caller in ("model", "multimodal"):
        return Checks(Subject(target), _COMPONENT)
    if name in _OTHERS:
        return Checks(_OTHERS[name][0](target), {"settings": building.settings, **dict(_OTHERS[name][1])})
    return None


def names_of(axis: str) -> list[str]:
    """The names of the checks of an axis, in their order."""
    if AXES[axis].caller in ("model", "multimodal"):
        return list(_COMPONENT)
    return ["settings", *dict(_OTHERS[axis][1])] if axis in _OTHERS else []
