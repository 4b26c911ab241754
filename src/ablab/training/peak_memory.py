"""The most memory that this process has had: since it began, or since somebody asked for it to be forgotten."""

from __future__ import annotations

import gc
import re
import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET = "5"  # of `man proc_pid_clear_refs`: the peak becomes what there is now


def peak_memory() -> tuple[int, str]:
    """Peak memory of this process in bytes, and how it was measured."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated(), "torch.cuda.max_memory_allocated"
    if (peak := _of_linux()) is not None:
        return peak, "peak resident set of the process (VmHWM)"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "peak resident set of the process (ru_maxrss)"


def forget_peak_memory() -> bool:
    """Let what was resident before not count, as far as it is free; whether the system can do that.

    Of a GPU's memory, whoever uses it beside the training sees to that.
    """
    gc.collect(1)  # what was made since lately: to look through all there is takes longer than a step
    try:
        _CLEAR.write_text(_FORGET, encoding="ascii")
    except OSError:  # no Linux, or a container that does not let it
        return False
    return _of_linux() is not None


def _of_linux() -> int | None:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
