"""The runs of a stack, from their configs to their records, in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ablab.config import RunConfig
from ablab.results.record import Cost, Record
from ablab.results.run_context import RunContext
from ablab.training.build import BuiltRun
from ablab.training.callbacks import Progress
from ablab.training.run import execute
from ablab.training.stacked.lockstep import Lockstep
from ablab.training.stacked.model import Passed, StackedModel
from ablab.training.stacked.module import Given, Seat
from ablab.training.stopping import stop_on_request
from ablab.training.trainer import quiet_lightning


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run of a stack that is to be trained; the arguments are those of `execute`."""

    place: int
    config: RunConfig
    folder: Path
    context: RunContext = field(default_factory=RunContext)
    progress: Progress | None = None


def execute_stack(
    members: Sequence[Member],
    size: int,
    beat: Callable[[], None] | None = None,
    counted: Cost | None = None,
) -> dict[int, Record]:
    """Train and evaluate runs that differ in their seeds alone, with one pass for all; their records, by place.

    Each is what `execute` makes of it, in a folder of its own. One that diverges or fails does not end the others.

    Args:
        size: places of the stack, those of runs that had ended before among them, so that a run whose neighbours have
            ended computes what it would have computed beside them, to the last bit.
        beat, counted: as `execute` takes them.
    """
    records: dict[int, Record] = {}
    with quiet_lightning(), stop_on_request() as stop:
        lockstep = Lockstep[Given, Passed](partial(_pass, _Stack(members[0].config, size)))
        known = [counted] if counted else []

        def train(member: Member) -> None:
            seat = Seat(place=member.place, size=size, lockstep=lockstep, stop=stop, counted=known)
            record = execute(
                member.config,
                member.folder,
                member.context,
                member.progress,
                beat,
                counted=next(iter(known), None),
                seat=seat,
            )
            records[member.place] = record

        lockstep.run({member.place: partial(train, member) for member in members})
    return records


class _Stack:
    """The stacked model, made when it is needed first: on the device of the members' models."""

    def __init__(self, config: RunConfig, size: int) -> None:
        self._config, self._size = config, size
        self._model: StackedModel | None = None

    def model(self, like: Given) -> StackedModel:
        if self._model is None:
            built = BuiltRun.of(self._config)
            device = next(like[0].parameters()).device
            self._model = StackedModel(built.build_model().to(device), built.task, self._size)
        return self._model


def _pass(stack: _Stack, given: Mapping[int, Given]) -> dict[int, Passed]:
    model = stack.model(next(iter(given.values())))
    return model({place: each[0] for place, each in given.items()}, {place: each[1] for place, each in given.items()})
