"""Time, interleaved: all calls take turns, so that whatever the machine does besides falls on all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

FEWEST = 3  # repetitions, however long they take


@dataclass(frozen=True)
class Times:
    """Of the calls of one implementation."""

    median_s: float
    min_s: float
    max_s: float


def once(call: Callable[[], object], device: str) -> float:
    """Seconds that one call takes, until the device has done it."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    kept = call()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    del kept  # freeing is not counted: for what is large it costs more than small calls do
    return seconds


def repetitions(seconds: float, rounds: int, budget_s: float) -> int:
    """How often a call that takes so long is timed: as often as the budget allows, within FEWEST and `rounds`."""
    return min(rounds, max(FEWEST, int(budget_s / max(seconds, 1e-9))))


def in_turn(calls: Mapping[str, Callable[[], object]], counts: Mapping[str, int], device: str) -> dict[str, Times]:
    """Time each call `counts` times, in rounds; calls with fewer repetitions pause in rounds evenly spread."""
    rounds = max(counts.values(), default=0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for round_ in range(rounds):
            for name, call in calls.items():
                if (round_ + 1) * counts[name] // rounds > round_ * counts[name] // rounds:
                    seconds[name].append(once(call, device))
    finally:
        if collecting:
            gc.enable()
    return {name: Times(median(each), min(each), max(each)) for name, each in seconds.items() if each}
