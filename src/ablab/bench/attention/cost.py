"""Time and memory of a call, and what the machine can do.

Times are interleaved: all calls take turns, so that whatever the machine does besides falls on all of them alike.
(`torch.utils.benchmark` times one statement many times in a row, and warms up anew before each measurement.) Memory is
the peak of one call beyond what was there before, its result and gradients included. What would take too long or too
much memory is not tried: its cost is foreseen from shorter lengths.
"""

from __future__ import annotations

import gc
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch.profiler import ProfilerActivity, profile

from ablab.bench.attention.implementation import Setting

Clock = Literal["wall", "cpu"]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
FEWEST = 3  # repetitions, however long they take


@dataclass(frozen=True)
class Times:
    """Times of the calls of one implementation."""

    median_s: float
    min_s: float
    max_s: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        return cls(median(seconds), min(seconds), max(seconds))


def once(call: Callable[[], object], device: str, clock: Clock = "wall") -> float:
    """Seconds that one call takes, until the device has done it."""
    now = CLOCKS[clock]
    if device == "cuda":
        torch.cuda.synchronize()
    started = now()
    kept = call()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = now() - started
    del kept  # freeing is not counted: for what is large it costs more than small calls do
    return seconds


def repetitions(seconds: float, rounds: int, budget_s: float) -> int:
    """How often a call that takes so long is timed: as often as the budget allows, within FEWEST and `rounds`."""
    return min(rounds, max(FEWEST, int(min(rounds, budget_s / max(seconds, 1e-9)))))


def in_turn(
    calls: Mapping[str, Callable[[], object]],
    counts: Mapping[str, int],
    device: str,
    seconds: dict[str, list[float]],
    clock: Clock = "wall",
) -> None:
    """Time each call `counts` times, in rounds; calls with fewer repetitions pause in rounds evenly spread.

    Args:
        seconds: what is measured is added here as it comes, so that an interrupt loses nothing.
    """
    rounds = max(counts.values(), default=0)
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for round_ in range(rounds):
            for name, call in calls.items():
                if (round_ + 1) * counts[name] // rounds > round_ * counts[name] // rounds:
                    seconds.setdefault(name, []).append(once(call, device, clock))
    finally:
        if collecting:
            gc.enable()


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """The most that PyTorch's allocator held at once during the call, above what it held before.

    On a CPU every allocation is recorded, so the number is exact; what a library allocates by other means (a matrix
    product's own buffers) is not in it. On CUDA it is the allocator's own peak.
    """
    if device == "cuda":
        return _cuda(call)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would say on stderr that it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        kept = call()  # until the last allocation is recorded
    del kept
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event["args"] for event in events if event.get("name") == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda change: change["Ev Idx"]):
        held += change["Bytes"]
        peak = max(peak, held)
    return peak


def _cuda(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kept = call()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


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
    growth: float = (length / last) ** min(2.0, max(1.0, slope))
    return measured[last] * growth


def scores_bytes(setting: Setting, length: int) -> int:
    """Bytes of all scores and their softmax, which is the least that a quadratic memory must hold."""
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


SIZE = {"cpu": 2048, "cuda": 8192}
REPETITIONS = 5


class MatmulPeak:
    """The fastest of all matrix products that were timed, in FLOP/s; the machine's peak changes with what else runs."""

    def __init__(self, setting: Setting, clock: Clock = "wall") -> None:
        self.flops_per_second = 0.0
        self._device, self._clock = setting.device, clock
        self._matrix = torch.ones(SIZE[setting.device], SIZE[setting.device], dtype=setting.torch_dtype).to(
            setting.device
        )

    def measure(self) -> None:
        """Time a few more."""
        n = len(self._matrix)
        for _ in range(REPETITIONS):
            seconds = once(lambda: self._matrix @ self._matrix, self._device, self._clock)
            self.flops_per_second = max(self.flops_per_second, 2 * n**3 / seconds)
