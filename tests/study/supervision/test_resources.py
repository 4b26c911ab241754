"""Devices are shared out: never more than there are, never one twice to a run, the least used first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablab.config import RunConfig
from ablab.config.schema import ExecutionConfig
from ablab.errors import UserError
from ablab.study.supervision import resources as devices
from ablab.study.supervision.resources import (
    DevicePool,
    devices_of,
    oom_kills,
    peak_memory_of,
    threads_for,
    visible_devices,
)


@given(st.integers(0, 5), st.integers(1, 3), st.lists(st.one_of(st.integers(1, 4), st.none()), max_size=30))
def test_no_device_is_given_to_more_runs_than_may_share_it(names: int, sharing: int, wishes: list[int | None]) -> None:
    pool = DevicePool([str(name) for name in range(names)], sharing)
    used = dict.fromkeys(map(str, range(names)), 0)
    given_out: list[tuple[str, ...]] = []
    for wish in wishes:
        if wish is None:
            if given_out:
                back = given_out.pop(0)
                pool.give_back(back)
                for name in back:
                    used[name] -= 1
            continue
        free = sum(count < sharing for count in used.values())
        taken = pool.take(wish)
        assert (taken is None) == (free < wish)
        if taken is not None:
            assert len(set(taken)) == len(taken) == wish
            given_out.append(taken)
            for name in taken:
                used[name] += 1
    assert all(0 <= count <= sharing for count in used.values())


def test_runs_share_a_device_only_when_none_is_free() -> None:
    pool = DevicePool(["0", "1"], runs_per_device=2)
    assert [pool.take(1) for _ in range(5)] == [("0",), ("1",), ("0",), ("1",), None]


def config(processes: int = 1, devices_per_run: int | None = None, accelerator: str = "auto") -> RunConfig:
    counts = ("max_steps", "val_check_interval", "log_every_n_steps", "accumulate_grad_batches")
    trainer = dict.fromkeys(counts, 1) | {"gradient_clip_val": None, "accelerator": accelerator}
    return RunConfig(
        options={"strategy": {"processes": processes}, "trainer": trainer},
        axes={},
        execution=ExecutionConfig(devices_per_run=devices_per_run),
    )


def test_how_many_devices_a_run_takes() -> None:
    assert devices_of(config(), 0) == 0
    assert devices_of(config(accelerator="cpu"), 4) == 0
    assert devices_of(config(), 4) == 1
    assert devices_of(config(processes=2), 4) == 2
    assert devices_of(config(processes=2, devices_per_run=4), 4) == 4
    with pytest.raises(UserError, match=r"devices_per_run=1: the run's 2 processes need a device each"):
        devices_of(config(processes=2, devices_per_run=1), 4)
    with pytest.raises(UserError, match=r"devices_per_run=8: there are 4 devices"):
        devices_of(config(devices_per_run=8), 4)


@pytest.mark.parametrize(
    ("named", "count", "found"), [(None, 2, ["0", "1"]), ("3,5", 2, ["3", "5"]), ("", 0, []), ("GPU-ab", 1, ["GPU-ab"])]
)
def test_only_what_this_process_may_use_is_shared_out(
    monkeypatch: pytest.MonkeyPatch, named: str | None, count: int, found: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_devices() == found


def test_threads_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cores", lambda: 8)
    assert threads_for(1, 1) is None
    assert threads_for(1, 3) == 2
    assert threads_for(2, 2) == 2
    assert threads_for(4, 4) == 1


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_kills_are_counted_where_the_kernel_counts_them(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    assert oom_kills(proc, groups) == 0
    write(proc / "vmstat", "nr_free_pages 1\noom_kill 2\nthp 5\n")
    assert oom_kills(proc, groups) == 2
    write(proc / "self" / "cgroup", "0::/user.slice/job\n")
    write(groups / "user.slice" / "job" / "memory.events", "low 0\noom 9\noom_kill 3\noom_group_kill 7\n")
    assert oom_kills(proc, groups) == 5


@pytest.mark.parametrize("line", ["4:memory:/jobs/one", "7:cpu,memory:/jobs/one"])
def test_the_older_hierarchy(tmp_path: Path, line: str) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    write(proc / "self" / "cgroup", f"9:name=systemd:/\n{line}\n0::/\n")
    write(groups / "memory" / "jobs" / "one" / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert oom_kills(proc, groups) == 4


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_the_peak_of_a_process() -> None:
    assert peak_memory_of(os.getpid()) > 10 * 2**20
    assert peak_memory_of(2**22 + 1) == 0
