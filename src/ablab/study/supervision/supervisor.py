"""Runs one run in processes of its own, so that whatever kills it kills nothing else, and says how it ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from ablab.errors import UserError
from ablab.results.hparams import write_hparams
from ablab.results.record import Record
from ablab.results.store import LOG_FILE, RECORD_FILE, read_record, write_record
from ablab.study.supervision.worker import Rank, work
from ablab.training.callbacks import Progress
from ablab.training.run import new_record, prepare_folder

# A run that was asked to stop writes its record; one that does not within this time is killed.
GRACE_S = 15.0

# Children are forked from a process that has imported everything once, and has started no thread and no device.
_CONTEXT = multiprocessing.get_context("forkserver")


def warm_up() -> None:
    """Start importing what runs need, in the background. Optional: the first run does it otherwise."""
    _CONTEXT.set_forkserver_preload(["ablab.study.supervision.worker"])
    forkserver.ensure_running()


def supervise(config: dict[str, Any], folder: Path, progress: Progress) -> Record:
    """Run what `config` describes in processes of its own, one per rank, and return its record.

    A process that dies without a record (killed, out of memory, crashed in native code) gets one here. When one rank
    dies, the others, which would wait for it forever, are ended.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the run has been asked to stop and has ended.
    """
    warm_up()
    prepare_folder(config, folder)
    (folder / LOG_FILE).unlink(missing_ok=True)
    ranks = config["strategy"]["processes"]
    port = _free_port() if ranks > 1 else 0
    reader, writer = _CONTEXT.Pipe(duplex=False)
    processes = []
    try:
        for index in range(ranks):
            rank = Rank(index=index, of=ranks, port=port)
            process = _CONTEXT.Process(target=work, args=(config, folder, rank, None if index else writer))
            process.start()
            processes.append(process)
        writer.close()
        died = _watch(processes, reader, progress)
    except KeyboardInterrupt:
        _stop(processes, signal.SIGINT)
        _record_of(config, folder, processes, None, interrupted=True)
        raise
    finally:
        _stop(processes, signal.SIGKILL)
        reader.close()
    return _record_of(config, folder, processes, died)


def _watch(processes: list[ForkServerProcess], reader: Connection, progress: Progress) -> ForkServerProcess | None:
    """Pass progress on until all processes have ended, or one has died, which is returned; the others are stopped."""
    waiting: list[Any] = [reader, *(p.sentinel for p in processes)]
    while any(p.is_alive() for p in processes):
        if reader in wait(waiting, timeout=1.0):
            try:
                progress(*reader.recv())
            except EOFError:
                waiting.remove(reader)
        running = [p for p in processes if p.is_alive()]
        waiting = [w for w in waiting if w is reader or any(w == p.sentinel for p in running)]
        if died := _died(processes):
            _stop(running, signal.SIGTERM)
            return died
    return _died(processes)


def _died(processes: list[ForkServerProcess]) -> ForkServerProcess | None:
    return next((p for p in processes if p.exitcode), None)


def _stop(processes: list[ForkServerProcess], how: signal.Signals) -> None:
    """Signal what still runs, wait for it, and kill what does not listen, with everything that it has started."""
    for process in processes:
        if process.is_alive() and process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, how) if how == signal.SIGKILL else os.kill(process.pid, how)
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive() and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()


def _record_of(
    config: dict[str, Any],
    folder: Path,
    processes: list[ForkServerProcess],
    died: ForkServerProcess | None,
    interrupted: bool = False,
) -> Record:
    """The record that the run wrote, unless it does not know the cause of its end, or wrote none."""
    record = None
    with contextlib.suppress(UserError):
        record = read_record(folder / RECORD_FILE)
    if record is not None and (died is None or not _is_consequence(record, died, processes)):
        return record
    record = record or new_record(config)
    if interrupted:
        record.status, record.reason = "interrupted", "stopped before it was finished"
    else:
        who = f"process {processes.index(died)}" if died and len(processes) > 1 else "the process"
        record.status, record.reason = "failed", _why(who, died.exitcode if died else None)
    record.finished_at = record.finished_at or record.started_at
    write_hparams(folder, record)
    write_record(folder, record)
    return record


def _is_consequence(record: Record, died: ForkServerProcess, processes: list[ForkServerProcess]) -> bool:
    """Whether the first process, which wrote the record, ended because another one had been killed.

    It was stopped for that, or it lost its connection to the other, and its words are about the connection.
    """
    killed = died is not processes[0] and (died.exitcode or 0) < 0
    return record.status == "interrupted" or (record.status == "failed" and killed)


def _why(who: str, exit_status: int | None) -> str:
    if exit_status is None or exit_status == 0:
        return f"{who} ended without a record (see {LOG_FILE})"
    if exit_status > 0:
        return f"{who} ended with exit status {exit_status} (see {LOG_FILE})"
    name = signal.Signals(-exit_status).name
    hint = "; out of memory?" if name == "SIGKILL" else f" (see {LOG_FILE})"
    return f"{who} was killed by {name}{hint}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
