"""Processes that torchrun and srun start are the processes of one run, as those that ablab starts itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from commands import Command
from processes import wait_for

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.store import CHECKPOINT_FOLDER, LOG_FILE, RECORD_FILE, read_record
from ablab.study.launched import check_place, follow, lead, refuse_sweep
from ablab.study.supervision.supervisor import supervise
from ablab.training.world import World

if TYPE_CHECKING:
    from conftest import Lab

TinyConfig = Callable[..., RunConfig]
TORCHRUN = "from torch.distributed.run import main; main()"
DDP = ("strategy=ddp", "trainer.max_steps=4")


def of_srun(rank: int, size: int, port: int) -> dict[str, str]:
    """What srun tells a task of a step on one node."""
    told = {"JOB_ID": 7, "STEP_ID": 0, "STEP_NUM_NODES": 1, "STEP_NODELIST": "n1", "NODEID": 0}
    told |= {"NTASKS": size, "STEP_NUM_TASKS": size, "STEP_TASKS_PER_NODE": size, "PROCID": rank, "LOCALID": rank}
    return {f"SLURM_{name}": str(value) for name, value in told.items()} | {"MASTER_PORT": str(port)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def step(lab: Lab, *words: str, size: int = 2) -> Iterator[list[Command]]:
    """The tasks of a step of SLURM, as srun would start them."""
    port = free_port()
    python_path = os.pathsep.join([str(lab.folder), *sys.path])
    with started() as processes:
        for rank in range(size):
            env: Any = of_srun(rank, size, port) | {"PYTHONPATH": python_path}
            processes.append(lab.start(*words, session=True, **env))
        yield processes


@contextlib.contextmanager
def started() -> Iterator[list[Any]]:
    """Processes, each the head of a session, that end with the block."""
    processes: list[Any] = []
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def ends(processes: list[Any]) -> list[tuple[int, str, str]]:
    said = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, out, err) for process, (out, err) in zip(processes, said, strict=True)]


@pytest.mark.slow
def test_torchrun_on_two_nodes_trains_what_ablab_trains_on_one(lab: Lab, tmp_path: Path) -> None:
    port, name = free_port(), "nodes"
    words = lab.words(*DDP, f"name={name}", "trainer.devices=1", "trainer.num_nodes=2")
    torchrun = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(lab.folder), *sys.path])}
    with started() as processes:
        for node in range(2):
            told = [*torchrun, f"--node-rank={node}", "-m", "ablab", *words]
            process = Command(told, lab.folder, environment, session=True, code=TORCHRUN, anew=True)
            processes.append(process)
        (first, out, err), (second, silent, _) = ends(processes)
    assert (first, second) == (0, 0), err
    assert out.startswith("val_loss ")
    assert silent == ""
    folder = lab.folder / "outputs" / name
    record = read_record(folder / RECORD_FILE)
    assert record.status == "ok"
    assert [path.name for path in folder.glob(".*")] == [".lock"]

    config = RunConfig.from_dict(record.config).with_values({"trainer.num_nodes": 1, "strategy.processes": 2})
    assert supervise(config, tmp_path, lambda *_: None).metrics == record.metrics


@pytest.mark.slow
def test_a_task_of_srun_that_raises_is_named_and_the_next_step_goes_on(lab: Lab) -> None:
    """The name of the folder is the first one's, though each would take the time of day for itself."""
    with step(lab, *lab.words(*DDP, "activation=rank_raises")) as processes:
        (first, _, err), (second, _, silent) = ends(processes)
    assert (first, second) == (1, 1)
    assert silent == ""
    [path] = lab.folder.glob("outputs/20*/" + RECORD_FILE)
    record = read_record(path)
    assert (record.status, record.cause) == ("failed", "error")
    assert str(record.reason).startswith("process 1 of 2: RuntimeError: the second bulb is broken (faulty.py:")
    assert str(record.traceback).endswith("\nRuntimeError: the second bulb is broken")
    assert f"failed: {record.reason}; outputs/" in err
    assert "the second bulb is broken" in (path.parent / "run.log").read_text()


@pytest.mark.slow
def test_tasks_that_are_told_to_stop_save_the_run(lab: Lab) -> None:
    """SIGTERM to all of them, as SLURM sends when the time is up; then the same command goes on."""
    words = lab.words(*DDP, "name=stopped", "trainer.max_steps=1000000", "trainer.val_check_interval=1000000")
    folder = lab.folder / "outputs" / "stopped"
    with step(lab, *words) as processes:
        curves = folder / "metrics.csv"
        wait_for(lambda: (curves.exists() and curves.read_text().count("\n") > 2) or processes[0].poll() is not None)
        for process in processes:
            process.terminate()
        found = ends(processes)
    assert [status for status, _, _ in found] == [130, 130], (found, (folder / LOG_FILE).read_text())
    assert read_record(folder / RECORD_FILE).status == "interrupted"
    assert (folder / CHECKPOINT_FOLDER / "last.ckpt").is_file()


@pytest.mark.parametrize(("how", "status"), [(UserError("no such run"), 2), (KeyboardInterrupt(), 130), (None, 0)])
def test_without_a_run_the_others_end_as_the_first_does(how: BaseException | None, status: int) -> None:
    def command() -> int:
        if how is not None:
            raise how
        return 0

    place = World(size=2, port=free_port(), launcher="srun")
    ended: list[int] = []
    other = threading.Thread(target=lambda: ended.append(follow(replace(place, rank=1))))
    other.start()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.nullcontext() if how is None else pytest.raises(type(how)):
            assert lead(place, command) == 0
        other.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [status]


@pytest.mark.parametrize("told", [{"RANK": "1"}, {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}])
def test_what_is_left_in_the_environment_places_no_run(
    lab: Lab, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    ended = lab.ablab(*lab.words(f"name=left-{len(told)}"))
    assert ended.status == 0, ended.err
    assert ended.out.startswith("val_loss ")


def test_what_a_launcher_cannot_start(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    two = tiny_config("strategy=ddp", "trainer.devices=2")
    check_place(two)
    refuse_sweep()
    with pytest.raises(UserError, match=r"^trainer\.num_nodes=2: by itself ablab starts processes on this machine"):
        check_place(tiny_config("strategy=ddp", "trainer.devices=2", "trainer.num_nodes=2"))
    for name, value in of_srun(1, 2, 1).items():
        monkeypatch.setenv(name, value)
    check_place(two)
    with pytest.raises(UserError, match=r"^srun has started 2 processes, and strategy=single is a run of 1: "):
        check_place(tiny_config())
    with pytest.raises(UserError, match=r"^srun has started 2 processes on this node, and .* needs 1$"):
        check_place(tiny_config("strategy=ddp", "trainer.devices=1", "trainer.num_nodes=2"))
    with pytest.raises(
        UserError, match=r"^-m: a sweep starts the processes .* srun has started 2 of it; start it without"
    ):
        refuse_sweep()
