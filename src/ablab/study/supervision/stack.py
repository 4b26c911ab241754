"""Runs that are trained in one process, by one pass for all: which of a plan they are, and how they share it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ablab.config import RunConfig, fingerprint
from ablab.results.store import CHECKPOINT_FOLDER
from ablab.study.plan_file import PlannedRun
from ablab.training.checkpoint_list import LAST

MOST = 16  # seeds in a stack; of more there are several
FEWEST = 4  # seeds in each, where one stack is made into several: what a pass takes beside its products is shared


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one attempt is made at: a run, or several that are stacked.

    Args:
        runs: that are to be trained.
        places: of each in the stack.
        size: places of the stack; those of runs that have ended among them. 1 of a run that is alone.
    """

    runs: tuple[PlannedRun, ...]
    places: tuple[int, ...] = (0,)
    size: int = 1

    @property
    def head(self) -> PlannedRun:
        return self.runs[0]

    @property
    def stacked(self) -> bool:
        return self.size > 1

    def of(self, runs: Sequence[PlannedRun]) -> Unit:
        """Some of its runs, in the places that they have."""
        places = {run.info.index: place for run, place in zip(self.runs, self.places, strict=True)}
        return replace(self, runs=tuple(runs), places=tuple(places[run.info.index] for run in runs))


def units(
    runs: Sequence[PlannedRun],
    left: Sequence[PlannedRun],
    may_stack: Callable[[RunConfig], bool],
    side_by_side: int = 1,
) -> list[Unit]:
    """What to start, in the order of the plan.

    Args:
        runs: of the plan, or of its block.
        left: those of them that are not done with.
        may_stack: whether the seeds of a run can be stacked.
        side_by_side: how many processes there are room for. Stacks are made smaller, so that each has one.
    """
    wanted = {run.info.index for run in left}
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(_kind(run), []).append(run)
    share = math.ceil(side_by_side / max(len(groups), 1))
    found = [unit for group in groups.values() for unit in _of_group(group, wanted, may_stack, share)]
    return sorted(found, key=lambda unit: unit.head.info.index)


def _of_group(
    group: list[PlannedRun], wanted: set[int], may_stack: Callable[[RunConfig], bool], share: int
) -> list[Unit]:
    left = [run for run in group if run.info.index in wanted]
    if len(group) < 2 or not left or not may_stack(group[0].config):
        return [Unit(runs=(run,)) for run in left]
    # One that goes on must find as many places as it had; those of a stack that begins are of who is in it.
    whole = group if any(_goes_on(run) for run in left) else left
    return [unit for stack in _parts(whole, share) for unit in _unit(stack, wanted)]


def _parts(whole: list[PlannedRun], share: int) -> list[list[PlannedRun]]:
    """So many stacks of seeds, of nearly the same size: none with more than MOST, and with fewer than FEWEST none."""
    count = max(math.ceil(len(whole) / MOST), min(share, len(whole) // FEWEST), 1)
    bounds = [len(whole) * part // count for part in range(count + 1)]
    return [whole[start:end] for start, end in itertools.pairwise(bounds)]


def _unit(stack: Sequence[PlannedRun], wanted: set[int]) -> list[Unit]:
    seated = {place: run for place, run in enumerate(stack) if run.info.index in wanted}
    return [Unit(runs=tuple(seated.values()), places=tuple(seated), size=len(stack))] if seated else []


def _goes_on(run: PlannedRun) -> bool:
    return (run.folder / CHECKPOINT_FOLDER / LAST).exists()


def _kind(run: PlannedRun) -> str:
    """Equal for runs that differ in their seed alone."""
    config = replace(run.config, seed=0)
    watching = [config.options[axis] for axis in ("logger", "callbacks")]
    return fingerprint(config) + json.dumps(watching, sort_keys=True)
