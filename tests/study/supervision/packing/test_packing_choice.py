"""How many runs share a device, on a device that is made up: its memory, and how much its runs hold each other up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablab.study.supervision.packing.choice import LEAST_GAIN, MEMORY_SHARE, Level, Memory, Packing, pack

GIB = 2**30


@dataclass
class FakeDevice:
    """A run alone keeps it busy for a share of the time; together they get done what it can do."""

    total: float = 80.0  # GiB
    idle: float = 1.0
    each: float = 2.0
    busy: float = 0.1  # by one run
    known: bool = True  # whether the driver tells of its memory
    tried: list[int] = field(default_factory=list)

    @property
    def memory(self) -> Memory | None:
        return Memory(total_bytes=int(self.total * GIB), idle_bytes=int(self.idle * GIB)) if self.known else None

    def __call__(self, runs: int) -> Level | str:
        self.tried.append(runs)
        used = self.idle + runs * self.each
        if used > self.total:
            return "out of memory"
        speed = 10 * min(runs, 1 / self.busy)
        return Level(runs=runs, steps_per_second=speed, used_bytes=int(used * GIB) if self.known else None)


DEVICES = st.builds(
    FakeDevice,
    total=st.floats(4, 200),
    idle=st.floats(0, 3),
    each=st.floats(0.2, 60),
    busy=st.floats(0.01, 1),
    known=st.booleans(),
)


@given(DEVICES, st.integers(1, 100))
def test_what_is_chosen_fits_and_pays(device: FakeDevice, most: int) -> None:
    found = pack(device, most, device.memory)
    alone = device.idle + device.each <= device.total
    assert 1 <= found.runs <= most
    assert found.runs == 1 or device.idle + found.runs * device.each <= device.total
    assert len(device.tried) <= math.log2(most) + 2
    assert device.tried == sorted(set(device.tried))
    if most > 1 and alone and device.known and found.runs > 1:
        assert device.idle + found.runs * device.each <= MEMORY_SHARE * device.total + 1e-6
        assert max(device.tried) * device.each + device.idle <= MEMORY_SHARE * device.total + 1e-6  # or it was 1
    for fewer, more in zip(found.levels, found.levels[1:], strict=False):
        paid = more.steps_per_second >= fewer.steps_per_second * LEAST_GAIN ** math.log2(more.runs / fewer.runs)
        assert paid == (more.runs <= found.runs)
    assert found.sentence(device.memory)


@pytest.mark.parametrize(
    ("device", "most", "runs", "reason"),
    [
        (FakeDevice(busy=0.1), 100, 16, "32 get no more done"),  # 8 do 80 steps a second, 16 do 100
        (FakeDevice(busy=0.24), 100, 4, "8 get no more done"),
        (FakeDevice(busy=1.0), 100, 1, "2 get no more done"),
        (FakeDevice(busy=0.01), 6, 6, "there are no more runs"),
        (FakeDevice(busy=0.01), 1, 1, "there are no more runs than devices"),
        (FakeDevice(busy=0.01, each=15.0), 100, 4, "there is no memory for more"),  # (0.9 * 80 - 1) / 15
        (FakeDevice(busy=0.01, each=15.0, known=False), 100, 4, "8 side by side failed: out of memory"),
        (FakeDevice(each=100.0), 100, 1, "a trial failed: out of memory"),
    ],
)
def test_why_no_more_is_said(device: FakeDevice, most: int, runs: int, reason: str) -> None:
    found = pack(device, most, device.memory)
    assert (found.runs, found.reason) == (runs, reason)


def test_the_line() -> None:
    levels = (
        Level(runs=1, steps_per_second=10.0, used_bytes=GIB),
        Level(runs=2, steps_per_second=19.0, used_bytes=2 * GIB),
    )
    memory = Memory(total_bytes=80 * GIB, idle_bytes=0)
    assert Packing(runs=2, reason="there are no more runs", levels=levels).sentence(memory) == (
        "2 runs share a device (there are no more runs; steps a second by runs side by side: 1: 10, 2: 19; "
        "2.0 of 80.0 GiB)"
    )
    assert Packing(runs=1, reason="why").sentence() == "1 run has a device for itself (why)"


def test_a_device_that_others_fill_has_room_for_none() -> None:
    memory = Memory(total_bytes=10 * GIB, idle_bytes=int(9.5 * GIB))
    assert memory.room_for([Level(runs=1, steps_per_second=1.0, used_bytes=10 * GIB)]) == 0
    assert memory.room_for([Level(runs=1, steps_per_second=1.0)]) is None
