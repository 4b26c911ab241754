"""The processes of a run as one of them sees them: which one it is, of how many, and who started them.

Whoever starts them (our supervisor, torchrun, SLURM's srun) tells each by environment variables. They are brought into
one form here, torchrun's, so that nothing behind this asks who it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# What launchers tell a process of its place, in torchrun's words. What an outer launcher said is not meant for
# processes that are started by other means.
_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_MORE = ("NODE_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
_TORCHRUNS = "TORCHELASTIC_"
_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # torch's word for: the address is that of a store which exists already
_SHELLS = frozenset({"bash", "interactive", "sh", "zsh"})


@dataclass(frozen=True, kw_only=True)
class World:
    """One process among those of a run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on its node
    node: int = 0
    on_node: int | None = None  # how many there are on its node, where that is known
    address: str = "127.0.0.1"  # where they meet
    port: int = 0
    hosted: bool = False  # whether somebody else, and not the first process, listens there
    launcher: str | None = None  # torchrun or srun; None: ourselves

    def enter(self) -> None:
        """Tell this process, and the libraries in it, of its place, and of no other that it was told of before."""
        forget()
        if self.size > 1:
            os.environ.update(
                RANK=str(self.rank),
                WORLD_SIZE=str(self.size),
                LOCAL_RANK=str(self.local_rank),
                NODE_RANK=str(self.node),
                MASTER_ADDR=self.address,
                MASTER_PORT=str(self.port),
            )
            if self.hosted:
                os.environ[_AGENT_STORE] = str(True)


def world() -> World:
    """That of this process, as it was told by `World.enter`; that of a run of one process if it was told nothing."""
    env = os.environ
    if not all(name in env for name in _PLACE):
        return World()
    return World(
        rank=int(env["RANK"]),
        size=int(env["WORLD_SIZE"]),
        local_rank=int(env["LOCAL_RANK"]),
        node=int(env.get("NODE_RANK", env.get("GROUP_RANK", "0"))),
        address=env["MASTER_ADDR"],
        port=int(env["MASTER_PORT"]),
        hosted=env.get(_AGENT_STORE) == str(True),
    )


def launched(env: Mapping[str, str] | None = None) -> World | None:
    """The place that a launcher has given this process among several that it started for one run; None if none has.

    torchrun, and whatever else sets all of its variables, says so plainly. SLURM sets some of its own in every process
    of an allocation, so that only those of a step of several tasks count: a plain `ablab` in a batch script or an
    interactive allocation has none of them, and `srun --pty bash` starts a shell, not a run.

    Args:
        env: the environment; None: this process's.
    """
    env = os.environ if env is None else env
    place = _of_torchrun(env) or _of_srun(env)
    return place if place is not None and place.size > 1 else None


def forget() -> None:
    """Take out of the environment what any launcher said of a place among processes."""
    for name in [*_PLACE, *_MORE, *(name for name in os.environ if name.startswith(_TORCHRUNS))]:
        os.environ.pop(name, None)


def _of_torchrun(env: Mapping[str, str]) -> World | None:
    try:
        return World(
            rank=int(env["RANK"]),
            size=int(env["WORLD_SIZE"]),
            local_rank=int(env["LOCAL_RANK"]),
            node=int(env.get("GROUP_RANK", env.get("NODE_RANK", "0"))),
            on_node=int(env["LOCAL_WORLD_SIZE"]) if "LOCAL_WORLD_SIZE" in env else None,
            address=env["MASTER_ADDR"],
            port=int(env["MASTER_PORT"]),
            hosted=env.get(_AGENT_STORE) == str(True),
            launcher="torchrun",
        )
    except (KeyError, ValueError):
        return None


def _of_srun(env: Mapping[str, str]) -> World | None:
    if "SLURM_PTY_PORT" in env and env.get("SLURM_JOB_NAME") in _SHELLS:
        return None
    try:
        node = int(env.get("SLURM_NODEID", "0"))
        return World(
            rank=int(env["SLURM_PROCID"]),
            size=int(env["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(env["SLURM_LOCALID"]),
            node=node,
            on_node=_tasks_on(node, env.get("SLURM_STEP_TASKS_PER_NODE", "")),
            address=env.get("MASTER_ADDR") or _meeting_place(env),
            port=int(env.get("MASTER_PORT") or _port(env)),
            launcher="srun",
        )
    except (KeyError, ValueError):
        return None


def _tasks_on(node: int, told: str) -> int | None:
    """ "2(x3),1" is two on each of the first three nodes and one on the fourth."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", told):
        counts += [int(count)] * int(times or 1)
    return counts[node] if node < len(counts) else None


def _meeting_place(env: Mapping[str, str]) -> str:
    """The first node of the step, from a list as in "gpu[03-05,9],login1"."""
    if env.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    nodes = env["SLURM_STEP_NODELIST"]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).partition(",")[0]


def _port(env: Mapping[str, str]) -> int:
    """All processes of a step know it without having met; another step on the same node has another one."""
    job, step = int(env.get("SLURM_JOB_ID", "0")), int(env.get("SLURM_STEP_ID", "0"))
    return 15_000 + (job * 31 + step) % 15_000
