"""One attempt at a run: its processes, from their start to the record of their end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from ablab.config.redact import redact_text, secrets_in
from ablab.errors import UserError
from ablab.results.hparams import write_hparams
from ablab.results.record import Cause, Record
from ablab.results.store import LOG_FILE, RECORD_FILE, read_record, write_record
from ablab.study.plan_file import PlannedRun
from ablab.study.supervision.code import CONTEXT, own_modules, warm_up, without_script
from ablab.study.supervision.counted import known_cost, remember_cost
from ablab.study.supervision.ending import Ending, printed_since
from ablab.study.supervision.lock import run_lock
from ablab.study.supervision.resources import Placement, Rendezvous, oom_kills, peak_memory_of
from ablab.study.supervision.stack import Unit
from ablab.study.supervision.watchdog import StackReport, Watchdog, at_fault, stack_traces
from ablab.study.supervision.worker import WorkerArgs, work
from ablab.training.begin import new_record, prepare_folder
from ablab.training.failures import cause_of, describe, failures_in, forget_failures, last_lines, noted
from ablab.training.stacks import ASK, ask, forget_stacks, is_stopped, shown, stack_of
from ablab.training.world import World

# A run that was asked to stop saves itself and writes its record; one that does not within this time is killed.
GRACE_S = 60.0
# The same for one that took too long, and for the others when one process of a run has died: they may wait forever.
FAREWELL_S = 15.0
_STARTS = 6  # of one process
_DYING_S = 0.05  # in which a process that was killed may have closed its sockets, and not yet be known for dead
ORPHANED = 255  # the exit status that multiprocessing gives to those whose parent was killed
Reported = tuple[int, int, int, str]  # which of the runs, its step, of how many, and a word on its quality
ANSWER_S = 1.0  # for processes that were asked where they stand


class Attempt:
    """The processes of a run, one per rank. Nothing here waits: whoever supervises calls `poll` now and then.

    A process that dies without a record (killed, out of memory, crashed in native code) gets one here. When one rank
    dies, the others, which would wait for it forever, are ended. When none goes on any more, all are.

    Args:
        run: or several that are stacked, in one process.
        hang_timeout: seconds without progress after which the processes are ended; None: never.

    Raises:
        UserError: another process works in the folder.
    """

    def __init__(self, run: PlannedRun | Unit, placement: Placement, hang_timeout: float | None = None) -> None:
        warm_up()
        self._unit = run if isinstance(run, Unit) else Unit(runs=(run,))
        run = self._unit.head
        self.config, self.folder, self.placement = run.config, run.folder, placement
        self._context = run.context
        for each in self._unit.runs:
            with run_lock(each.folder):
                prepare_folder(each.config, each.folder)
        log = self.folder / LOG_FILE
        self._log_start = log.stat().st_size if log.is_file() else 0  # what earlier attempts have printed
        self._oom_kills = oom_kills()
        self._peak_memory = 0
        # Of an end that the supervisor brought about: cause, reason, and where the processes stood.
        self._why: tuple[Cause | None, str, str | None] | None = None
        self._kill_at: float | None = None
        self._judge_at: float | None = None  # when the processes have had time to say where they stand
        self._stopped: set[int] = set()  # those that could not answer, since somebody had stopped them
        self._first_dead: list[int] = []  # before any other was told to end
        self._sent: set[int] = set()  # signals
        self._processes: list[ForkServerProcess] = []
        size = self.config.processes
        self._beats = CONTEXT.RawArray("q", size)
        self._watch = Watchdog(self._beats, hang_timeout)
        self._rendezvous = Rendezvous() if size > 1 else None
        self._lifeline, self._progress = self._start()
        self.started = time.monotonic()  # the first of all has waited until there was a process to be forked from

    def _start(self) -> tuple[Connection, Connection]:
        port = self._rendezvous.port if self._rendezvous else 0
        progress, progress_writer = CONTEXT.Pipe(duplex=False)
        lifeline_reader, lifeline = CONTEXT.Pipe(duplex=False)
        try:
            for rank in range(len(self._beats)):
                place = World(rank=rank, size=len(self._beats), local_rank=rank, port=port, hosted=True)
                args = WorkerArgs(
                    config=self.config,
                    folder=self.folder,
                    context=self._context,
                    place=place,
                    placement=self.placement,
                    working_folder=Path.cwd(),
                    lifeline=lifeline_reader,
                    progress=None if rank else progress_writer,
                    beats=self._beats,
                    counted=None if rank else known_cost(self.config, self._context),
                    stack=self._unit if self._unit.stacked else None,
                )
                self._processes.append(_started(args))
        except BaseException:
            self.kill()
            raise
        finally:
            progress_writer.close()
            lifeline_reader.close()
        return lifeline, progress

    @property
    def handles(self) -> list[Any]:
        """What becomes ready when there is something to look at."""
        alive = [process.sentinel for process in self._processes if process.is_alive()]
        return alive if self._progress.closed else [self._progress, *alive]

    def poll(self) -> list[Reported]:
        """Return what the runs have reported of their progress; processes that must not live on are ended."""
        reported = self._reported()
        now = time.monotonic()
        if not self._first_dead and self._kill_at is None:
            self._first_dead = [rank for rank, process in enumerate(self._processes) if process.exitcode]
            if self._first_dead:
                self._ask()  # the others: one of them may be what the first one waited for
                self._kill_at = now + FAREWELL_S
        if self._judge_at is None and self._kill_at is None and self._watch.is_stuck():
            self._ask()
            self._judge_at = now + ANSWER_S
        if self._judge_at is not None and now >= self._judge_at:
            self._judge()
        if self._kill_at is not None and now >= self._kill_at:
            self.kill()
        peaks = [peak_memory_of(process.pid) for process in self._processes if process.pid and process.is_alive()]
        self._peak_memory = max(self._peak_memory, sum(peaks))
        return reported

    @property
    def ended(self) -> bool:
        return not any(process.is_alive() for process in self._processes)

    @property
    def orphaned(self) -> bool:
        """Whether the process that this one's were forked from was killed: that says nothing about the run."""
        return all(process.exitcode == ORPHANED for process in self._processes)

    def stop(self, cause: Cause | None = None, reason: str = "stopped before it was finished") -> None:
        """Ask the run to save itself and end.

        Args:
            cause: why it then has failed, and gets less time for it; None: it was merely interrupted.
        """
        if self._why is None:
            self._why = (cause, reason, None)
            self._signal(signal.SIGINT)
            self._kill_at = time.monotonic() + (GRACE_S if cause is None else FAREWELL_S)

    def kill(self) -> None:
        """End all processes at once, with everything that they have started."""
        if not self._first_dead and not self.ended:
            self._why = self._why or (None, "stopped before it was finished", None)
        self._sent.add(signal.SIGKILL)
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)  # before it had a session of its own
        for process in self._processes:
            process.join()

    def close(self) -> list[Record]:
        """The record of each run, once all processes have ended."""
        for process in self._processes:
            process.join()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid or 0, signal.SIGKILL)  # what it had started and left behind
        self._lifeline.close()
        self._progress.close()
        records = [self._record(run) for run in self._unit.runs]
        forget_failures(self.folder)
        forget_stacks(self.folder)
        if self._rendezvous:
            self._rendezvous.close()
        return records

    def _reported(self) -> list[Reported]:
        reported = []
        try:
            while not self._progress.closed and self._progress.poll():
                reported.append(self._progress.recv())
        except (EOFError, OSError):
            self._progress.close()
        return reported

    def _ask(self) -> None:
        """Ask those that live where they stand."""
        self._sent.add(ASK)  # it ends a process that is about to exit
        alive = {rank: process.pid or 0 for rank, process in enumerate(self._processes) if process.is_alive()}
        self._stopped = {rank for rank, pid in alive.items() if is_stopped(pid)}
        for pid in alive.values():
            ask(pid)

    def _judge(self) -> None:
        """End a run that stands still, unless it has gone on by itself meanwhile."""
        self._judge_at = None
        if self._why is not None or self._first_dead or not self._watch.is_stuck():
            return
        reports = self._standings()
        who = at_fault(reports).described(len(reports))
        limit = self._watch.limit_s
        self._why = (
            "hung",
            f"{who}: nothing went on for {limit:g} s (hang_timeout={limit:g})",
            stack_traces(reports),
        )
        self.kill()  # they cannot save themselves: that takes all of them

    def _standings(self) -> list[StackReport]:
        return [
            StackReport(
                rank=rank,
                stack=stack_of(self.folder, rank),
                beats=self._beats[rank],
                stopped=rank in self._stopped,
                ended=process.exitcode == 0,
            )
            for rank, process in enumerate(self._processes)
            if rank not in self._first_dead
        ]

    def _signal(self, how: signal.Signals) -> None:
        self._sent.add(how)
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, how)

    def _record(self, run: PlannedRun) -> Record:
        """The record that the run wrote, unless it does not know the cause of its end, or wrote none."""
        record = None
        with contextlib.suppress(UserError):
            record = read_record(run.folder / RECORD_FILE)
        written = record is not None
        record = record or new_record(run.config, run.context)
        exits = [process.exitcode for process in self._processes]
        stacks = {rank: stack_of(self.folder, rank) for rank, status in enumerate(exits) if (status or 0) < 0}
        ending = Ending(
            exits=exits,
            first=self._first_dead or [rank for rank, status in enumerate(exits) if status],
            sent=frozenset(self._sent),
            why=self._why,
            failures=failures_in(self.folder),
            reports=self._standings(),
            crashed={rank: last_lines("\n".join(shown(stack))) for rank, stack in stacks.items() if stack},
            out_of_memory=oom_kills() > self._oom_kills,
            printed=redact_text(
                printed_since(self.folder / LOG_FILE, self._log_start), secrets_in(self.config.to_dict())
            ),
        )
        if not ending.tell(record, written):
            remember_cost(run.config, record)
            return record
        record.finished_at = datetime.now(UTC).isoformat(timespec="seconds")
        record.cost.wall_time_s = record.cost.wall_time_s or round(time.monotonic() - self.started, 3)
        record.cost.peak_memory_bytes = record.cost.peak_memory_bytes or self._peak_memory or None
        with noted("the event file of hyper-parameters", record.notes):
            write_hparams(run.folder, record)
        try:
            write_record(run.folder, record)
        except OSError as error:  # as the run itself could not
            record.cause, record.reason = cause_of(error), describe(error)
        return record


def _started(args: WorkerArgs) -> ForkServerProcess:
    """A process of a run. Where that which it is to be forked from was killed meanwhile, another one takes its place.

    Raises:
        OSError, EOFError: it cannot be started, however often that is tried.
    """
    of_script = "__main__" in own_modules(args.config)  # a component that is written in the script itself
    for attempt in range(_STARTS):
        process = CONTEXT.Process(target=work, args=(args,))
        try:
            with contextlib.nullcontext() if of_script else without_script():
                process.start()
            break
        except (EOFError, ConnectionError):
            if attempt + 1 == _STARTS:
                raise
            time.sleep(_DYING_S * 2**attempt)
            warm_up()
    return process
