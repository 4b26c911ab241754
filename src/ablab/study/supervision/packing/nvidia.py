"""What the driver tells of its GPUs, asked of `nvidia-smi`: no context on a device is needed for it, or made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_MIB = 2**20
_FIELDS = ("index", "uuid", "name", "memory.used", "memory.total", "driver_version")
_PATIENCE_S = 10.0  # a driver that hangs hangs whoever asks it


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as the driver sees it. Memory is that of all processes on it, contexts and all."""

    index: str
    uuid: str
    name: str
    used_bytes: int
    total_bytes: int
    driver: str = ""


Ask = Callable[[], str]  # what `nvidia-smi` prints; "" where it cannot be asked


def ask_driver() -> str:
    """Return what `nvidia-smi` prints of each GPU, a line each; "" where there is no such program, or it fails."""
    query = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def gpus(ask: Ask = ask_driver) -> list[Gpu]:
    """The GPUs that the driver tells of. One whose memory it does not know, as of one cut by MIG, is left out."""
    return [found for line in ask().splitlines() if (found := _gpu(line)) is not None]


def _gpu(line: str) -> Gpu | None:
    words = [word.strip() for word in line.split(",")]
    if len(words) != len(_FIELDS) or not words[3].isdigit() or not words[4].isdigit():
        return None
    index, uuid, name, used, total, driver = words
    return Gpu(
        index=index, uuid=uuid, name=name, used_bytes=int(used) * _MIB, total_bytes=int(total) * _MIB, driver=driver
    )


def gpu_named(name: str, found: Sequence[Gpu]) -> Gpu | None:
    """The one that CUDA_VISIBLE_DEVICES names so, by its number or how its UUID begins; None where that is unsure.

    CUDA counts the fastest GPU first unless it is told otherwise, the driver by its place: the same if all are alike.
    """
    if not name.isdigit():
        named = [each for each in found if each.uuid.startswith(name)]
        return named[0] if len(named) == 1 else None
    alike = len({each.name for each in found}) == 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return next((each for each in found if alike and each.index == name), None)
