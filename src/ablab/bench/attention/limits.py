"""What would take too long or too much memory is not tried: its cost is foreseen from shorter lengths."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import torch

from ablab.bench.attention.setting import Setting


def foresee(measured: Mapping[int, float], length: int) -> float | None:
    """Continue what was measured at shorter lengths along its last slope, between linear and quadratic in the length.

    One measurement alone is continued quadratically; None without any.
    """
    shorter = sorted(each for each in measured if each < length and measured[each] > 0)
    if not shorter:
        return None
    last, slope = shorter[-1], 2.0
    if len(shorter) > 1:
        before = shorter[-2]
        slope = math.log(measured[last] / measured[before]) / math.log(last / before)
    return measured[last] * (length / last) ** min(2.0, max(1.0, slope))


def scores_bytes(setting: Setting, length: int) -> int:
    """What all scores and their softmax take, which is the least that a quadratic memory must hold."""
    return 2 * setting.batch * setting.heads * length**2 * setting.torch_dtype.itemsize


def available_bytes(device: str) -> int:
    """Memory that is free now."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
