"""Sees runs to their end: side by side, each in processes of its own, again where they crashed, stopped in order."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ablab.config import RunConfig, fingerprint
from ablab.config.schema import ExecutionConfig
from ablab.errors import UserError
from ablab.results.record import Cause, Record, Status
from ablab.results.store import RECORD_FILE, add_record, read_record, write_record
from ablab.study.events import Observer, RunOutline
from ablab.study.plan_file import PlannedRun
from ablab.study.supervision.attempt import Attempt
from ablab.study.supervision.lock import LockedError
from ablab.study.supervision.packing.measure import Tools
from ablab.study.supervision.packing.sharing import Sharing, sharing
from ablab.study.supervision.resources import DevicePool, devices_of, side_by_side, threads_for, visible_devices
from ablab.study.supervision.stack import Unit
from ablab.training.begin import new_record
from ablab.training.callbacks import Progress
from ablab.training.failures import NO_SPACE, cause_of, describe

BACK_OFF_S = 1.0  # before the first retry; twice as long before each further one
POLL_S = 0.2  # the longest time between two looks at what runs
NOT_AGAIN = frozenset({"refused", "timeout", "disk"})  # causes of a failure that would only come back
_ORPHANED = 3  # starts of a run that count as none, since the process that it was forked from was killed


@dataclass
class _Job:
    unit: Unit
    devices: int  # that it takes
    attempts: int  # that were made, by an earlier supervisor, too
    orphaned: int = 0  # attempts that count as none
    not_before: float = 0.0
    first_started: float = 0.0


@dataclass
class _Running:
    job: _Job
    attempt: Attempt
    devices: tuple[str, ...]


@dataclass
class Supervisor:
    """Runs planned runs.

    Args:
        observer: told of everything that happens.
        heartbeat: called at least once a second.
        names: the devices to share out; None: those of this machine.
    """

    settings: ExecutionConfig
    observer: Observer
    heartbeat: Callable[[], None] = lambda: None
    names: Sequence[str] | None = None
    stopped_by: str | None = None  # the failure that ended the study: the run's, and why it did
    _interrupts: int = 0
    _passed_on: bool = False
    _running: list[_Running] = field(default_factory=list)
    _sharing: Sharing = field(default_factory=lambda: Sharing(names=()))

    def run(self, runs: Sequence[PlannedRun | Unit]) -> dict[int, Record]:
        """See the runs to their end; their records by `RunOutline.index`, without those that were not started.

        Args:
            runs: each by itself, or several that are stacked.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, after running runs have saved themselves and ended; a second one ends
                them at once.
        """
        names = visible_devices() if self.names is None else list(self.names)
        units = [run if isinstance(run, Unit) else Unit(runs=(run,)) for run in runs]
        needs = {unit.head.info.index: devices_of(unit.head.config, len(names)) for unit in units}
        again = self.settings.retry == "failed"  # with all the attempts that a run has
        queue = deque(
            _Job(unit, devices_of(unit.head.config, len(names)), 0 if again else _attempts_left_behind(unit))
            for unit in units
        )
        records: dict[int, Record] = {}
        with self._interruptible(), self._shared(units, needs, names) as self._sharing:
            pool = DevicePool(self._sharing.names, self._sharing.runs_per_device)
            each = self._sharing.runs_per_device
            jobs = side_by_side([unit.head.config for unit in units], self.settings, len(names), each)
            try:
                while queue or self._running:
                    self._start(queue, min(jobs, len(units)), pool, records)
                    self._wait(queue)
                    self._poll(queue, pool, records)
            finally:
                for running in self._running:  # an error of our own: leave nothing behind
                    running.attempt.kill()
        if self._interrupts:
            raise KeyboardInterrupt
        return records

    def _start(self, queue: deque[_Job], jobs: int, pool: DevicePool, records: dict[int, Record]) -> None:
        if self._stopping:
            queue.clear()
        now = time.monotonic()
        for job in [job for job in queue if job.not_before <= now]:
            if self._stopping or len(self._running) >= jobs:
                return
            head = job.unit.head
            devices = pool.take(job.devices)
            if devices is None:
                continue  # a later one may need fewer
            queue.remove(job)
            job.attempts += 1
            processes = head.config.processes
            placement = self._sharing.place(devices, threads_for(processes, jobs))
            for run in job.unit.runs:
                self.observer.started(run.info, job.attempts)
            try:
                attempt = Attempt(job.unit, placement, self.settings.hang_timeout)
            except (UserError, OSError, EOFError) as error:
                pool.give_back(devices)
                for run in job.unit.runs:
                    self._end(job, run, _not_started(run, error), records)
            else:
                job.first_started = job.first_started or attempt.started
                self._running.append(_Running(job, attempt, devices))

    def _wait(self, queue: deque[_Job]) -> None:
        self.heartbeat()
        handles = [handle for running in self._running for handle in running.attempt.handles]
        if handles:
            wait(handles, timeout=POLL_S)
        elif queue:
            time.sleep(POLL_S)  # all of them wait for another attempt

    def _poll(self, queue: deque[_Job], pool: DevicePool, records: dict[int, Record]) -> None:
        self._obey()
        for running in list(self._running):
            job, attempt = running.job, running.attempt
            for index, step, steps, shown in attempt.poll():
                self.observer.progressed(job.unit.runs[index].info, step, steps, shown)
            limit = self.settings.timeout
            if limit is not None and time.monotonic() - attempt.started > limit:
                attempt.stop("timeout", f"timed out: it took longer than {limit:g} s (timeout={limit:g})")
            if attempt.ended:
                self._running.remove(running)
                pool.give_back(running.devices)
                found = attempt.close()
                if attempt.orphaned and found[0].status == "failed" and job.orphaned < _ORPHANED:
                    job.orphaned, job.attempts = job.orphaned + 1, job.attempts - 1
                if self._makes_room(running, found, pool):
                    job.attempts -= 1
                    queue.appendleft(job)
                    for run in job.unit.runs:
                        self.observer.waiting(run.info, f"{found[0].reason}; with one run less on a device", 0.0)
                else:
                    self._judge(job, found, queue, records)

    def _makes_room(self, ended: _Running, found: Sequence[Record], pool: DevicePool) -> bool:
        """Whether a run found no memory beside others on a device that trials had found room on, and now has more."""
        short = self._sharing.measured and all((each.status, each.cause) == ("failed", "memory") for each in found)
        beside = any(set(other.devices) & set(ended.devices) for other in self._running)
        return short and beside and not self._stopping and pool.lower()

    def _shared(
        self, units: Sequence[Unit], needs: dict[int, int], names: Sequence[str]
    ) -> AbstractContextManager[Sharing]:
        return sharing([unit.head for unit in units], needs, names, self.settings, self._tools(units))

    def _tools(self, units: Sequence[Unit]) -> Tools:
        unit_of = {unit.head.info.index: unit for unit in units}
        return Tools(
            start=lambda run, placement: Attempt(
                _tried(unit_of[run.info.index], run), placement, self.settings.hang_timeout
            ),
            say=lambda line: print(f"ablab: {line}", file=sys.stderr),
            heartbeat=self.heartbeat,
            stopped=lambda: bool(self._interrupts),
        )

    def _judge(self, job: _Job, found: Sequence[Record], queue: deque[_Job], records: dict[int, Record]) -> None:
        pause = BACK_OFF_S * 2 ** max(job.attempts - 1, 0)
        once_more = []
        for run, record in zip(job.unit.runs, found, strict=True):
            again = may_try_again(record.status, record.cause, job.attempts, self.settings.retries)
            if again and not self._stopping:
                once_more.append(run)
                self.observer.waiting(run.info, record.reason or record.status, pause)
            else:
                self._end(job, run, record, records)
        if once_more:
            job.unit, job.not_before = job.unit.of(once_more), time.monotonic() + pause
            queue.appendleft(job)

    def _end(self, job: _Job, run: PlannedRun, record: Record, records: dict[int, Record]) -> None:
        if job.attempts > 1 and record.attempts != job.attempts:
            record.attempts = job.attempts
            with contextlib.suppress(OSError):
                write_record(run.folder, record)
        records[run.info.index] = record
        seconds = time.monotonic() - job.first_started if job.first_started else 0.0
        self.observer.ended(run.info, record, seconds)
        full = record.status == "failed" and record.cause == "disk"  # as it is for all that are queued
        if (full or (record.status == "failed" and self.settings.on_failure == "stop")) and not self._stopping:
            why = f"there is {NO_SPACE}" if full else "on_failure=stop"
            self.stopped_by = f"{run.info.label} failed ({why})"

    @property
    def _stopping(self) -> bool:
        return bool(self._interrupts) or self.stopped_by is not None

    def _obey(self) -> None:
        """Do what Ctrl-C asked for: not in the signal's handler, which may find this object half-way through."""
        if self._stopping and not self._passed_on:
            self._passed_on = True
            self.observer.stopping()
            for running in self._running:
                running.attempt.stop()
        if self._interrupts > 1:
            for running in self._running:
                running.attempt.kill()

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Within it, SIGINT and SIGTERM ask to stop, and a second one to stop at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(*_: Any) -> None:
            self._interrupts += 1

        before = {which: signal.signal(which, handle) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)


def supervise(config: RunConfig, folder: Path, progress: Progress) -> Record:
    """Run one run, once, in processes of its own, and return its record.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the run has saved itself and has ended.
    """
    info = RunOutline(index=0, variant="", task="", seed=config.seed, steps=config.trainer.max_steps)
    run = PlannedRun(info=info, config=config, folder=folder)
    settings = ExecutionConfig(retries=0, retry="failed", hang_timeout=config.execution.hang_timeout)
    return Supervisor(settings, _Only(progress)).run([run])[0]


class _Only(Observer):
    """Passes the progress of one run on, and nothing else."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def progressed(self, run: RunOutline, step: int, steps: int, shown: str) -> None:
        self._progress(step, steps, shown)


def _tried(unit: Unit, copy: PlannedRun) -> Unit:
    """A unit as a trial begins it, in the folder and with the loggers of a copy of its first run."""
    rest = [
        replace(run, config=replace(copy.config, seed=run.config.seed), folder=copy.folder / str(run.info.index))
        for run in unit.runs[1:]
    ]
    return replace(unit, runs=(copy, *rest))


def may_try_again(status: Status, cause: Cause | None, attempts: int, retries: int) -> bool:
    """Whether a run of so many attempts is tried once more after one that ended like this."""
    return status == "failed" and cause not in NOT_AGAIN and attempts <= retries


def _attempts_left_behind(unit: Unit) -> int:
    """How many attempts at the run its record tells of: an earlier supervisor may have died before the next one."""
    return max(_attempts_at(run) for run in unit.runs)


def _attempts_at(run: PlannedRun) -> int:
    try:
        record = read_record(run.folder / RECORD_FILE)
    except UserError:
        return 0
    own = record.status == "failed" and record.cause != "disk" and record.fingerprint == fingerprint(run.config)
    return max(record.attempts, 0) if own else 0


def _not_started(run: PlannedRun, error: Exception) -> Record:
    """The record of a run whose processes could not even be started. It may not be possible to keep it."""
    record = new_record(run.config, run.context)
    record.status, record.cause = "failed", cause_of(error)
    record.reason = describe(error)
    with contextlib.suppress(OSError):
        if isinstance(error, LockedError):  # the run goes on another time, and who works on it leaves a record, too
            record.status, record.cause = "interrupted", None
            add_record(run.folder, record)
        elif not isinstance(error, UserError):  # else the folder is another program's
            write_record(run.folder, record)
    return record
