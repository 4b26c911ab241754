"""One run whose processes a launcher has started: torchrun, or SLURM's srun.

The first process composes and checks the run and makes its folder ready. What it finds goes to the others through the
store at which torch's processes meet anyway: the run, or that there is none and with which status to end. So all of
them agree on the folder, only one of them writes there before the others come, and one mistake is told once.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from torch.distributed import DistError, PrefixStore, Store, TCPStore

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import write_record
from ablab.study.supervision.lock import run_lock
from ablab.study.supervision.watchdog import OwnWatchdog
from ablab.study.supervision.worker import print_to_log
from ablab.training.begin import prepare_folder
from ablab.training.build import BuiltRun
from ablab.training.callbacks import Progress
from ablab.training.failures import failures_in, first_cause, forget_failures, tell
from ablab.training.run import execute
from ablab.training.stacks import forget_stacks
from ablab.training.stopping import interrupt_once
from ablab.training.world import World, launched

JOIN_S = 300.0  # for processes to start and import
FAREWELL_S = 10.0  # for the others to hear the last words of the first, and to leave theirs
_RUN, _GONE = "run", "gone"

_followers: list[Store] = []  # where the others wait for the first process, as long as they do


def lead(place: World, run: Callable[[], int]) -> int:
    """What the first process does: run the command; the others, unless they took part, end with the same status."""
    store = _meet(place)
    _followers.append(store)
    status = 1
    try:
        status = run()
    except UserError:
        status = 2
        raise
    except KeyboardInterrupt:
        status = 130
        raise
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's, when the others have ended: so do we
        if _followers:
            _followers.clear()
            store.set(_RUN, json.dumps({"end": status}))
            status = 0
        if status in (0, 130):  # the store may be this process's, and the others need it to the end
            _wait_until(lambda: store.add(_GONE, 0) >= place.size - 1)
    return status


def follow(place: World) -> int:
    """What each other process does: the first one's run, or nothing; the exit status."""
    store = _meet(place)
    try:
        message = json.loads(store.get(_RUN))
    except DistError:
        return 1  # the first one has died, and has said so itself
    if "end" in message:
        store.add(_GONE, 1)
        return int(message["end"])
    folder = Path(message["folder"])
    print_to_log(folder)
    record = _take_part(place, RunConfig.from_dict(message["config"]), folder, None)
    if record.status in ("ok", "interrupted"):
        store.add(_GONE, 1)
    return 130 if record.status == "interrupted" else int(record.status != "ok")


def run_together(built: BuiltRun, folder: Path, report: Progress) -> Record:
    """Run the run in all processes; called in the first. Raises UserError if another process works in the folder."""
    place = launched()
    assert place is not None
    with run_lock(folder, wait_s=1.0):
        prepare_folder(built.config, folder)
        _followers.pop().set(_RUN, json.dumps({"config": built.config.to_dict(), "folder": str(folder.resolve())}))
        record = _take_part(place, built.config, folder, report, built)
        if record.status in ("failed", "interrupted"):
            _ask_the_others(record, folder, place.size)
        forget_failures(folder)
        forget_stacks(folder)
    return record


def check_place(config: RunConfig) -> None:
    """Raises UserError where a launcher has started other processes than the run is for, or none though it must."""
    if (place := launched()) is None:
        refuse_nodes(config)
        return
    devices, nodes = config.processes, config.trainer.num_nodes
    asked = f"{config.chosen('strategy')} with trainer.devices={devices} and trainer.num_nodes={nodes}"
    if config.processes == 1 and nodes == 1:
        asked = f"{config.chosen('strategy')}"
    if place.size != config.world_size:
        raise UserError(
            f"{place.launcher} has started {place.size} processes, and {asked} is a run of {config.world_size}: "
            "start as many, or change these"
        )
    if place.on_node is not None and place.on_node != devices:
        raise UserError(
            f"{place.launcher} has started {place.on_node} processes on this node, and {asked} needs {devices}"
        )


def refuse_sweep() -> None:
    """Raises UserError under a launcher, which starts the processes of one run."""
    if (place := launched()) is not None:
        raise UserError(
            f"-m: a sweep starts the processes of its runs itself, and {place.launcher} has started {place.size} "
            f"of it; start it without {place.launcher}, or run by run without -m"
        )


def refuse_nodes(config: RunConfig) -> None:
    """Raises UserError for a run on several nodes whose processes this one is to start."""
    nodes = config.trainer.num_nodes
    if nodes > 1:
        raise UserError(
            f"trainer.num_nodes={nodes}: by itself ablab starts processes on this machine alone; start one run by "
            "torchrun or srun on all nodes"
        )


def _take_part(
    place: World, config: RunConfig, folder: Path, report: Progress | None, built: BuiltRun | None = None
) -> Record:
    signal.signal(signal.SIGTERM, interrupt_once)
    place.enter()
    watch = OwnWatchdog(place, config, folder)
    try:
        return execute(config, folder, progress=report, beat=watch.beat, built=built)
    finally:
        watch.close()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's, since another has failed: what is left is short


def _ask_the_others(record: Record, folder: Path, processes: int) -> None:
    """Whether another process has failed first; it may be about to say so."""

    def known() -> bool:
        accounts = failures_in(folder)
        return first_cause(accounts) is not None or len(accounts) == processes

    if record.status == "failed":
        _wait_until(known, 3.0)
    failures = failures_in(folder)
    if (failure := first_cause(failures) or next(iter(failures), None)) is not None:
        tell(record, failure, processes)
        if failure.lost and len(failures) < processes:
            record.cause = "killed"
            record.reason = f"a process ended without writing a record, as the launcher may tell; {record.reason}"
        write_record(folder, record)


def _meet(place: World) -> Store:
    """The store at which the processes meet, under names of our own. It serves torch, too, as long as it lives."""
    try:
        store = TCPStore(
            place.address,
            place.port,
            None if place.hosted else place.size,
            is_master=place.rank == 0 and not place.hosted,
            timeout=timedelta(seconds=JOIN_S),
            wait_for_workers=False,
            multi_tenant=not place.hosted,
        )
    except (DistError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"the processes cannot meet at {place.address}:{place.port}: {why}") from error
    store.set_timeout(timedelta(days=1))  # data may be downloaded first
    return PrefixStore("ablab", store)


def _wait_until(happened: Callable[[], bool], limit_s: float = FAREWELL_S) -> None:
    deadline = time.monotonic() + limit_s
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)
