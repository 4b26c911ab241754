"""The devices, threads and memory of runs side by side, and the place where the processes of one meet."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed import TCPStore

from ablab.config import RunConfig
from ablab.config.schema import AUTO, ExecutionConfig
from ablab.errors import UserError


@dataclass(frozen=True)
class Placement:
    """What the processes of one run may use."""

    threads: int | None = None  # of each process; None: torch's own choice
    devices: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them; empty: whatever there is
    environment: tuple[tuple[str, str], ...] = ()  # what else their processes are told: where MPS is


class DevicePool:
    """Hands out devices, the least used ones first.

    Args:
        names: of the devices, as CUDA_VISIBLE_DEVICES names them; none on a machine without.
        runs_per_device: how many runs may share one.
    """

    def __init__(self, names: Sequence[str], runs_per_device: int = 1) -> None:
        self._sharing = runs_per_device
        self._free = dict.fromkeys(names, runs_per_device)  # below 0 where `lower` came while all places were taken

    def take(self, count: int) -> tuple[str, ...] | None:
        """`count` different devices, or None if so many are not free now."""
        free = sorted((name for name, left in self._free.items() if left > 0), key=lambda name: -self._free[name])
        if len(free) < count:
            return None
        taken = tuple(free[:count])
        for name in taken:
            self._free[name] -= 1
        return taken

    def give_back(self, names: Sequence[str]) -> None:
        for name in names:
            self._free[name] += 1

    def lower(self) -> bool:
        """Let one run less share a device from now on. Whether that was possible: one run always may have it."""
        if self._sharing < 2:
            return False
        self._sharing -= 1
        self._free = {name: left - 1 for name, left in self._free.items()}
        return True


def visible_devices() -> list[str]:
    """The GPUs that this process may use, without waking them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()][:count]
    return [str(index) for index in range(count)]


def devices_of(config: RunConfig, visible: int) -> int:
    """How many devices the run of a config takes out of the pool; 0 for one on the CPU.

    Raises:
        UserError: it needs more than there are, or more than its processes can use.
    """
    processes: int = config.processes
    if not visible or config.trainer.accelerator == "cpu":
        return 0
    wanted: int = config.execution.devices_per_run or processes
    if wanted < processes:
        raise UserError(f"devices_per_run={wanted}: the run's {processes} processes need a device each")
    if wanted > visible:
        raise UserError(f"devices_per_run={wanted}: there are {visible} devices")
    return wanted


def side_by_side(
    configs: Sequence[RunConfig], settings: ExecutionConfig, devices: int | None = None, sharing: int | None = None
) -> int:
    """How many of these runs go side by side: as many as there are devices for, one where they use none.

    Where they use none, and `runs_per_device=auto` leaves it to the machine: as many as it has cores for.

    Args:
        devices: how many there are; None: those of this machine.
        sharing: how many runs share one; None: as the settings say, and one where that is yet to be measured.
    """
    if settings.jobs is not None:
        return settings.jobs
    devices = len(visible_devices()) if devices is None else devices
    using = [need for config in configs if (need := devices_of(config, devices))]
    auto = settings.runs_per_device == AUTO
    if not using:
        return max(1, cores() // max(config.processes for config in configs)) if auto else 1
    return max(1, devices * (sharing or (1 if auto else int(settings.runs_per_device))) // max(using))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(processes: int, side_by_side: int) -> int | None:
    """A fair share of the cores for each process of each of so many runs; None where there is nobody to share with."""
    sharers = processes * side_by_side
    return None if sharers == 1 else max(1, cores() // sharers)


_COUNTER = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_MEMBERSHIP = re.compile(r"^(?:0::|\d+:(?:[\w,=]*,)?memory(?:,[\w,=]*)?:)(\S*)$", re.MULTILINE)


def oom_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Processes that were killed for want of memory so far, here and, where the kernel tells, on the whole machine.

    It only ever rises; a rise while a run was killed says why. 0 where the kernel says nothing.
    """
    files = [proc / "vmstat"]
    for group in _MEMBERSHIP.findall(_text(proc / "self" / "cgroup")):
        place = group.lstrip("/")
        files += [cgroups / place / "memory.events", cgroups / "memory" / place / "memory.oom_control"]
        files += [cgroups / "memory.events", cgroups / "memory" / "memory.oom_control"]  # as seen in a container
    return sum(int(found[1]) for path in dict.fromkeys(files) if (found := _COUNTER.search(_text(path))))


def die_first() -> None:
    """When there is no memory left, let the kernel choose this process, not the supervisor or a stranger."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def peak_memory_of(pid: int) -> int:
    """The largest resident set of a running process so far, in bytes; 0 where the system does not tell."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _text(Path(f"/proc/{pid}/status")), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class Rendezvous:
    """A store on a port of loopback that nobody else can have taken: it is open before the processes are told of it.

    It is ours and not the first process's, so that it outlives any of them; it is gone with this object.
    """

    def __init__(self) -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(1024)
            self.port = int(listening.getsockname()[1])
            self._store: TCPStore | None = TCPStore(
                "127.0.0.1",
                self.port,
                is_master=True,
                wait_for_workers=False,
                master_listen_fd=listening.detach(),  # the store closes it
            )

    def close(self) -> None:
        self._store = None
