"""Which place a process was given, and by whom."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ablab.training.world import World, forget, launched, world

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "host1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
# As srun sets them in a step of four tasks on two nodes.
SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "interactive",  # of the allocation that the step was started in
    "SLURM_NTASKS": "4",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
PLACE: dict[str, Any] = {"rank": 3, "size": 4, "local_rank": 1, "node": 1, "on_node": 2}


def test_torchruns_place() -> None:
    assert launched(TORCHRUN) == World(**PLACE, address="host1", port=29500, hosted=True, launcher="torchrun")
    assert launched(SRUN | TORCHRUN) == launched(TORCHRUN), "torchrun inside a step of SLURM"


def test_sruns_place() -> None:
    expected = World(**PLACE, address="gpu03", port=15_000 + 77 * 31 + 2, launcher="srun")
    assert launched(SRUN) == expected
    chosen = launched(SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert chosen is not None
    assert (chosen.address, chosen.port) == ("10.0.0.1", 4000)
    other_step = launched(SRUN | {"SLURM_STEP_ID": "3"})
    assert other_step is not None
    assert other_step.port != expected.port


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1,n2", "n1"),
        ("gpu[03-04]", "gpu03"),
        ("gpu[7,9-11],login1", "gpu7"),
        ("rack1-gpu[007]", "rack1-gpu007"),
        ("a[1-2]b,c", "a1b"),
    ],
)
def test_where_processes_of_several_nodes_meet(nodes: str, first: str) -> None:
    place = launched(SRUN | {"SLURM_STEP_NODELIST": nodes})
    assert place is not None
    assert place.address == first


@pytest.mark.parametrize(
    ("told", "node", "expected"), [("2(x2)", 1, 2), ("4,1", 1, 1), ("2(x3),1", 3, 1), ("", 0, None)]
)
def test_how_many_are_on_its_node(told: str, node: int, expected: int | None) -> None:
    place = launched(SRUN | {"SLURM_STEP_TASKS_PER_NODE": told, "SLURM_NODEID": str(node)})
    assert place is not None
    assert place.on_node == expected


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"RANK": "1", "WORLD_SIZE": "2"},  # left over from something
        TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"},  # one process is no launcher's business
        TORCHRUN | {"WORLD_SIZE": "many"},
        # A batch script, and an interactive allocation, where ablab was started without srun.
        {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"},
        # A shell that is the one task of a step, or a step's first.
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        SRUN | {"SLURM_JOB_NAME": "bash", "SLURM_PTY_PORT": "4711", "SLURM_PROCID": "0"},
    ],
)
def test_a_process_that_was_started_by_itself(env: dict[str, str]) -> None:
    assert launched(env) is None


def test_a_place_is_told_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**TORCHRUN, "HOME": "/home"})
    assert world() == World(rank=3, size=4, local_rank=1, node=1, address="host1", port=29500, hosted=True)
    place = World(rank=1, size=2, local_rank=1, port=5)
    place.enter()
    assert world() == place
    assert "TORCHELASTIC_RUN_ID" not in os.environ
    forget()
    assert os.environ == {"HOME": "/home"}
    assert world() == World()
    World().enter()
    assert os.environ == {"HOME": "/home"}
