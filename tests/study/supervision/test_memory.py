"""What the kernel tells of memory, in files as kernels write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ablab.study.supervision.memory import oom_kills, peak_memory_of


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
