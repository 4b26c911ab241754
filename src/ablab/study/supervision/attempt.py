"""One attempt at a run: its processes, from their start to the record of their end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from ablab.errors import UserError
from ablab.results.hparams import write_hparams
from ablab.results.record import Cause, Record
from ablab.results.store import LOG_FILE, RECORD_FILE, read_record, write_record
from ablab.study.supervision.devices import Placement
from ablab.study.supervision.lock import run_lock
from ablab.study.supervision.memory import oom_kills, peak_memory_of
from ablab.study.supervision.warm import CONTEXT, warm_up
from ablab.study.supervision.worker import Rank, work
from ablab.training.run import new_record, prepare_folder

# A run that was asked to stop saves itself and writes its record; one that does not within this time is killed.
GRACE_S = 60.0
# The same for one that took too long, and for the others when one process of a run has died: they may wait forever.
FAREWELL_S = 15.0


class Attempt:
    """The processes of a run, one per rank. Nothing here waits: whoever supervises calls `look` now and then.

    A process that dies without a record (killed, out of memory, crashed in native code) gets one here. When one rank
    dies, the others, which would wait for it forever, are ended.

    Raises:
        UserError: another process works in the folder.
    """

    def __init__(self, config: dict[str, Any], folder: Path, placement: Placement) -> None:
        warm_up()
        self.config, self.folder, self.placement = config, folder, placement
        with run_lock(folder):
            prepare_folder(config, folder)
        self._oom_kills = oom_kills()
        self._peak_memory = 0
        self._why: tuple[Cause | None, str] | None = None  # of an end that the supervisor brought about: cause, reason
        self._kill_at: float | None = None
        self._died: ForkServerProcess | None = None
        self._processes: list[ForkServerProcess] = []
        self._lifeline, self._progress = self._start()
        self.started = time.monotonic()  # the first of all has waited until there was a process to be forked from

    def _start(self) -> tuple[Connection, Connection]:
        ranks = self.config["strategy"]["processes"]
        port = _free_port() if ranks > 1 else 0
        progress, progress_writer = CONTEXT.Pipe(duplex=False)
        lifeline_reader, lifeline = CONTEXT.Pipe(duplex=False)
        try:
            for index in range(ranks):
                rank = Rank(index=index, of=ranks, port=port)
                writer = None if index else progress_writer
                own = (self.config, self.folder, rank, self.placement, Path.cwd(), lifeline_reader, writer)
                process = CONTEXT.Process(target=work, args=own)
                process.start()
                self._processes.append(process)
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

    def look(self) -> list[tuple[int, int, str]]:
        """What the run has told of its progress; processes that must not live on are ended."""
        told = self._told()
        if self._died is None:
            self._died = next((process for process in self._processes if process.exitcode), None)
            if self._died is not None and self._kill_at is None:
                self._signal(signal.SIGTERM)
                self._kill_at = time.monotonic() + FAREWELL_S
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self.kill()
        peaks = [peak_memory_of(process.pid) for process in self._processes if process.pid and process.is_alive()]
        self._peak_memory = max(self._peak_memory, sum(peaks))
        return told

    @property
    def ended(self) -> bool:
        return not any(process.is_alive() for process in self._processes)

    def stop(self, cause: Cause | None = None, reason: str = "stopped before it was finished") -> None:
        """Ask the run to save itself and end.

        Args:
            cause: why it then has failed, and gets less time for it; None: it was merely interrupted.
        """
        if self._why is None:
            self._why = (cause, reason)
            self._signal(signal.SIGINT)
            self._kill_at = time.monotonic() + (GRACE_S if cause is None else FAREWELL_S)

    def kill(self) -> None:
        """End all processes at once, with everything that they have started."""
        if self._died is None and not self.ended:
            self._why = self._why or (None, "stopped before it was finished")
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)  # before it had a session of its own
        for process in self._processes:
            process.join()

    def close(self) -> Record:
        """The record, once all processes have ended."""
        for process in self._processes:
            process.join()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid or 0, signal.SIGKILL)  # what it had started and left behind
        self._lifeline.close()
        self._progress.close()
        self._died = self._died or next((process for process in self._processes if process.exitcode), None)
        return self._record()

    def _told(self) -> list[tuple[int, int, str]]:
        told = []
        try:
            while not self._progress.closed and self._progress.poll():
                told.append(self._progress.recv())
        except (EOFError, OSError):
            self._progress.close()
        return told

    def _signal(self, how: signal.Signals) -> None:
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, how)

    def _record(self) -> Record:
        """The record that the run wrote, unless it does not know the cause of its end, or wrote none."""
        record = None
        with contextlib.suppress(UserError):
            record = read_record(self.folder / RECORD_FILE)
        if record is not None and not self._knows_better(record):
            return record
        record = record or new_record(self.config)
        if self._why is not None:
            cause, record.reason = self._why
            record.status, record.cause = ("interrupted", None) if cause is None else ("failed", cause)
        else:
            who = (
                f"process {self._processes.index(self._died)}"
                if self._died and len(self._processes) > 1
                else "the process"
            )
            exit_status = self._died.exitcode if self._died else None
            out_of_memory = exit_status == -signal.SIGKILL and oom_kills() > self._oom_kills
            record.status, record.cause = "failed", "memory" if out_of_memory else "killed"
            record.reason = why(who, exit_status, out_of_memory)
        record.finished_at = datetime.now(UTC).isoformat(timespec="seconds")
        record.cost.wall_time_s = record.cost.wall_time_s or round(time.monotonic() - self.started, 3)
        record.cost.peak_memory_bytes = record.cost.peak_memory_bytes or self._peak_memory or None
        write_hparams(self.folder, record)
        write_record(self.folder, record)
        return record

    def _knows_better(self, record: Record) -> bool:
        """Whether the supervisor knows why the run ended, and the first process, which wrote the record, does not.

        It was stopped for a reason that it was not told; or it ended because another one had been killed, and its
        words are about the connection that it lost.
        """
        if record.status in ("ok", "diverged"):
            return False
        if self._why is not None:
            return record.status == "interrupted" or self._why[0] is not None
        killed = self._died is not None and self._died is not self._processes[0] and (self._died.exitcode or 0) < 0
        return self._died is not None and (record.status == "interrupted" or killed)


def why(who: str, exit_status: int | None, out_of_memory: bool = False) -> str:
    """One line on a process that ended without a word."""
    if exit_status is None or exit_status == 0:
        return f"{who} ended without a record (see {LOG_FILE})"
    if exit_status > 0:
        return f"{who} ended with exit status {exit_status} (see {LOG_FILE})"
    if out_of_memory:
        return f"out of memory: {who} was killed by the kernel"
    return f"{who} was killed by {signal.Signals(-exit_status).name} (see {LOG_FILE})"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
