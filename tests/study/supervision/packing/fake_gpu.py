"""A GPU of our own making, with its own time: runs on it take memory, and hold each other up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablab.results.record import Cause, Record, Status
from ablab.study.plan_file import PlannedRun
from ablab.study.supervision.packing.measure import Tools
from ablab.study.supervision.resources import Placement

MIB = 2**20


def record(status: Status, cause: Cause | None = None, reason: str | None = None) -> Record:
    found = Record(status=status, fingerprint="", study="", variant="", seed=0, axes={}, config={})
    found.cause, found.reason = cause, reason
    return found


@dataclass
class FakeGpu:
    """Several of one kind, where there are several names; runs take memory by their `d_model`, in MiB."""

    names: Sequence[str] = ("0",)
    total: int = 8000  # MiB
    idle: int = 100
    busy: float = 0.1  # by one run
    begins_after: float = 2.0  # seconds until a run's first step
    longest: int = 10**9  # steps of a run
    tells: bool = True  # whether there is an nvidia-smi
    refuses: str = ""  # an environment variable with which nothing works
    now: float = 0.0
    running: list[FakePilot] = field(default_factory=list)
    started: list[tuple[int, Placement]] = field(default_factory=list)  # how many were there before, and where it went
    folders: list[Path] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def tools(self) -> Tools:
        return Tools(start=self.start, say=self.said.append, ask=self.ask, clock=lambda: self.now, pause=self.pause)

    def start(self, run: PlannedRun, placement: Placement) -> FakePilot:
        assert run.config.options["logger"] == {}
        self.folders.append(run.folder)
        self.started.append((len(self.running), placement))
        pilot = FakePilot(self, placement, run.config.options["model"]["d_model"])
        self.running.append(pilot)
        return pilot

    def on(self, device: str) -> list[FakePilot]:
        return [pilot for pilot in self.running if device in pilot.placement.devices and not pilot.ended]

    def ask(self) -> str:
        lines = [
            f"{index}, GPU-{index}, Fake 1, {self.idle + sum(each.memory for each in self.running)}, {self.total}, 1.0"
            for index in range(len(self.names))
        ]
        return "\n".join(lines) if self.tells else ""

    def pause(self, handles: Sequence[Any], seconds: float) -> None:
        self.now += seconds
        for pilot in list(self.running):
            pilot.go_on(seconds)


@dataclass
class FakePilot:
    gpu: FakeGpu
    placement: Placement
    memory: int
    age: float = 0.0
    steps: float = 0.0
    told: int = 0
    reason: str = ""
    ended: bool = False

    @property
    def handles(self) -> list[Any]:
        return []

    def go_on(self, seconds: float) -> None:
        self.age += seconds
        beside = self.gpu.running
        if self.gpu.refuses in dict(self.placement.environment):
            self.ended, self.reason = True, "CUDA error: MPS is broken"
        elif self.gpu.idle + sum(each.memory for each in beside) > self.gpu.total:
            self.ended, self.reason = True, "out of memory: OutOfMemoryError"
        elif self.age > self.gpu.begins_after:
            self.steps += seconds * 40 * min(1.0, 1 / (self.gpu.busy * len(beside)))
            self.ended = self.steps >= self.gpu.longest

    def poll(self) -> list[tuple[int, int, int, str]]:
        if int(self.steps) == self.told:
            return []
        self.told = int(self.steps)
        return [(0, self.told, self.gpu.longest, "")]

    def kill(self) -> None:
        self.ended = True
        if self in self.gpu.running:
            self.gpu.running.remove(self)

    def close(self) -> list[Record]:
        return [record("failed", "memory", self.reason) if self.reason else record("ok")]
