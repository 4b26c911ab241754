"""Which devices and how many threads each of several runs gets, so that none takes what is another's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ablab.config import RunConfig
from ablab.errors import UserError


@dataclass(frozen=True)
class Placement:
    """What the processes of one run may use."""

    threads: int | None = None  # of each process; None: torch's own choice
    devices: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them; empty: whatever there is


class DevicePool:
    """Hands out devices, the least used ones first.

    Args:
        names: of the devices, as CUDA_VISIBLE_DEVICES names them; none on a machine without.
        runs_per_device: how many runs may share one.
    """

    def __init__(self, names: Sequence[str], runs_per_device: int = 1) -> None:
        self._free = dict.fromkeys(names, runs_per_device)

    def take(self, count: int) -> tuple[str, ...] | None:
        """`count` different devices, or None if so many are not free now."""
        free = sorted((name for name, left in self._free.items() if left), key=lambda name: -self._free[name])
        if len(free) < count:
            return None
        taken = tuple(free[:count])
        for name in taken:
            self._free[name] -= 1
        return taken

    def give_back(self, names: Sequence[str]) -> None:
        for name in names:
            self._free[name] += 1


def visible_devices() -> list[str]:
    """The GPUs that this process may use, without waking them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()][:count]
    return [str(index) for index in range(count)]


def devices_of(config: RunConfig, visible: int) -> int:
    """How many devices the run that a frozen config describes takes out of the pool; 0 for one on the CPU.

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


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(processes: int, side_by_side: int) -> int | None:
    """A fair share of the cores for each process of each of so many runs; None where there is nobody to share with."""
    sharers = processes * side_by_side
    return None if sharers == 1 else max(1, cores() // sharers)
