"""The process that a run runs in, from its own side."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ablab.config import RunConfig
from ablab.results.record import Cost
from ablab.results.run_context import RunContext
from ablab.results.store import LOG_FILE
from ablab.streams import lasting_output
from ablab.study.supervision.lock import run_lock
from ablab.study.supervision.resources import Placement, die_first
from ablab.study.supervision.stack import Unit
from ablab.training.run import execute
from ablab.training.stacked.run import Member, execute_stack
from ablab.training.stacks import answer
from ablab.training.world import World


def print_to_log(folder: Path) -> None:
    """From now on what this process prints, in native code too, goes to the end of the log of the run in `folder`."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # of a process that was started without
            stream.flush()
    log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


@dataclass(frozen=True, kw_only=True)
class WorkerArgs:
    """What the supervisor hands to one process of a run.

    Args:
        config, folder, context: the run.
        place: of the process among those of the run.
        placement: the devices and threads that it may use.
        working_folder: of the supervisor, which is not always that of the process that this one was forked from.
        lifeline: where the supervisor never writes; it is at its end when the supervisor is.
        progress: where the first process tells of it.
        beats: shared; the process counts its own place up whenever it goes on.
        counted: the cost of the run as one of the same model has counted it; None: it is not known yet.
        stack: the runs that are trained together, this one the first of them; None: it is alone.
    """

    config: RunConfig
    folder: Path
    context: RunContext
    place: World
    placement: Placement
    working_folder: Path
    lifeline: Connection
    progress: Connection | None
    beats: Any
    counted: Cost | None = None
    stack: Unit | None = None


def work(args: WorkerArgs) -> None:
    """Run the run. What it prints goes to its log; the terminal belongs to the supervisor.

    The process leads a session of its own, so that Ctrl-C reaches it through the supervisor alone, and whatever it
    starts can be killed with it. When the supervisor dies, however that is, the process dies too.
    """
    folder, place = args.folder, args.place
    os.setsid()
    os.chdir(args.working_folder)
    threading.Thread(target=_die_with_supervisor, args=(args.lifeline,), daemon=True).start()
    for schedulers_own in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(schedulers_own, signal.SIG_IGN)  # meant for the supervisor, and would end this process
    # So is this one, which a scheduler may send to all of a job: the supervisor says what to do. A handler, since what
    # this process starts would ignore it, too, if it did, and could not be ended by it.
    signal.signal(signal.SIGTERM, _leave_to_supervisor)
    die_first()
    print_to_log(folder)
    answer(folder, place.rank)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    place.enter()
    os.environ.update(args.placement.environment)
    if args.placement.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(args.placement.devices)
    if args.placement.threads is not None:
        torch.set_num_threads(min(args.placement.threads, torch.get_num_threads()))

    def report(step: int, steps: int, shown: str) -> None:
        if args.progress is not None:
            args.progress.send((0, step, steps, shown))

    def beat() -> None:
        args.beats[place.rank] += 1

    beat()
    if args.stack is not None:
        _work_together(args, args.stack, beat)
        return
    with lasting_output(), run_lock(folder) if place.rank == 0 else contextlib.nullcontext():
        record = execute(args.config, folder, args.context, report, beat, counted=args.counted)
    if record.status == "failed":
        sys.exit(1)  # so that the supervisor ends the other ranks, which may wait for this one forever


def _work_together(args: WorkerArgs, stack: Unit, beat: Callable[[], None]) -> None:
    """Run the runs of a stack. How each of them ended stands in its record, and is no matter of this process."""

    def report(index: int, step: int, steps: int, shown: str) -> None:
        if args.progress is not None:
            args.progress.send((index, step, steps, shown))

    members = [
        Member(place=seat, config=run.config, folder=run.folder, context=run.context, progress=partial(report, index))
        for index, (run, seat) in enumerate(zip(stack.runs, stack.places, strict=True))
    ]
    with lasting_output(), contextlib.ExitStack() as locks:
        for member in members:
            locks.enter_context(run_lock(member.folder))
        execute_stack(members, stack.size, beat, args.counted)


def _leave_to_supervisor(*_: object) -> None: ...


def _die_with_supervisor(lifeline: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os.killpg(os.getpid(), signal.SIGKILL)  # with the processes that load data
