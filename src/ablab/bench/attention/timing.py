"""Time, interleaved: all calls take turns, so that whatever the machine does besides falls on all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
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

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        return cls(median(seconds), min(seconds), max(seconds))


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
    return min(rounds, max(FEWEST, int(min(rounds, budget_s / max(seconds, 1e-9)))))


def in_turn(
    calls: Mapping[str, Callable[[], object]], counts: Mapping[str, int], device: str, seconds: dict[str, list[float]]
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
                    seconds.setdefault(name, []).append(once(call, device))
    finally:
        if collecting:
            gc.enable()
