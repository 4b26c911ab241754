"""Trials of runs side by side on one device: begun as they are planned, timed for some seconds, and thrown away."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from ablab.errors import UserError
from ablab.results.record import Record
from ablab.study.plan_file import PlannedRun
from ablab.study.supervision.packing.choice import Level
from ablab.study.supervision.packing.nvidia import Ask, ask_driver
from ablab.study.supervision.resources import Placement

WINDOW_S = 3.0  # that all of them train while their steps are counted
PATIENCE_S = 180.0  # for all of them to have begun
_WARM = 3  # reports of progress of each before the window: the first steps compile, allocate and pick kernels
_LOOK_S = 0.25
_MEMORY_S = 1.0  # between two questions to the driver

Report = tuple[float, int]  # when, and how many steps were taken by then


class Pilot(Protocol):
    """What is used of `Attempt`."""

    def poll(self) -> list[tuple[int, int, int, str]]: ...
    def kill(self) -> None: ...
    def close(self) -> list[Record]: ...
    @property
    def handles(self) -> list[Any]: ...
    @property
    def ended(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What trials are made with.

    Args:
        start: begins a run, as `Attempt` does.
        say: is told in a line what was measured, and whether MPS is used.
        heartbeat: called at least once a second.
        stopped: whether the study was asked to stop; then no trial goes on.
        ask: the driver.
    """

    start: Callable[[PlannedRun, Placement], Pilot]
    say: Callable[[str], object]
    heartbeat: Callable[[], None] = lambda: None
    stopped: Callable[[], bool] = lambda: False
    ask: Ask = ask_driver
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[Sequence[Any], float], object] = wait


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Tries a planned run with copies of itself; called with how many.

    Args:
        run: that is tried, on a logger of nobody's and in a folder that is removed.
        place: where each of so many copies goes; they share its device.
        used_bytes: of the device's memory by now, or None.
    """

    run: PlannedRun
    place: Callable[[int], Placement]
    used_bytes: Callable[[], int | None]
    tools: Tools

    def __call__(self, runs: int) -> Level | str:
        with self._pilots(runs) as pilots:
            if isinstance(pilots, str):
                return pilots
            return self._measured(pilots)

    @contextlib.contextmanager
    def _pilots(self, runs: int) -> Iterator[list[Pilot] | str]:
        """So many copies under way; or why one could not be begun."""
        folder = Path(tempfile.mkdtemp(prefix="ablab-side-by-side-"))
        config = self.run.config.with_values({"logger": {}})
        pilots: list[Pilot] = []
        failure = ""
        try:
            for number in range(runs):
                copy = replace(self.run, config=config, folder=folder / str(number))
                try:
                    pilots.append(self.tools.start(copy, self.place(runs)))
                except (UserError, OSError, EOFError) as error:
                    failure = str(error)
                    break
            yield failure or pilots
        finally:
            for pilot in pilots:
                pilot.kill()
                with contextlib.suppress(OSError, UserError):
                    pilot.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _measured(self, pilots: list[Pilot]) -> Level | str:
        began = asked = self.tools.clock()
        reports: list[list[Report]] = [[] for _ in pilots]
        used, until = self.used_bytes(), None
        while not any(pilot.ended for pilot in pilots):
            self.tools.pause([handle for pilot in pilots for handle in pilot.handles], _LOOK_S)
            self.tools.heartbeat()
            now = self.tools.clock()
            for pilot, own in zip(pilots, reports, strict=True):
                own += [(now, step) for _, step, _, _ in pilot.poll()][-1:]
            if now - asked >= _MEMORY_S:
                asked, used = now, _most(used, self.used_bytes())
            if until is None and min(map(len, reports)) > _WARM:
                until, reports = now + WINDOW_S, [own[-1:] for own in reports]
            if self.tools.stopped():
                return "the study was stopped"
            if until is not None and now >= until:
                break
            if until is None and now - began > PATIENCE_S:
                return f"they did not all begin to train in {PATIENCE_S:g} s"
        if failure := _failure(pilots):
            return failure
        rates = [steps_per_second(own, began) for own in reports]
        return Level(runs=len(pilots), steps_per_second=sum(rates), used_bytes=_most(used, self.used_bytes()))


def steps_per_second(reports: Sequence[Report], began: float) -> float:
    """Of one run, between the first of its reports and the last; of one that has ended before, since it began."""
    (first, before), (last, after) = ((began, 0), (began, 0)) if not reports else (reports[0], reports[-1])
    if last <= first:
        first, before = began, 0
    return (after - before) / (last - first) if last > first else 0.0


def _failure(pilots: Sequence[Pilot]) -> str:
    """Why one that has ended did not end well; "" where none has."""
    for pilot in pilots:
        if pilot.ended:
            for record in pilot.close():
                if record.status not in ("ok", "diverged"):
                    return record.reason or record.status
    return ""


def _most(one: int | None, other: int | None) -> int | None:
    return max((each for each in (one, other) if each is not None), default=None)
