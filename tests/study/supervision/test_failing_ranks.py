"""Runs of two processes in one sweep: one of the two fails in each way that there is, and the record says which."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import processes_in
from test_supervisor import Told, planned

from ablab.config import RunConfig
from ablab.config.schema import ExecutionConfig
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.supervision import attempt
from ablab.study.supervision.supervisor import Supervisor

TinyConfig = Callable[..., RunConfig]

FAULTY = """
import os, signal, sys, time
import torch
from torch import nn


class Fault(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        if not x.is_meta and self.training:
            self.passes += 1
            if os.environ.get("RANK") == "1" and self.passes == 3:
                self.fault()
        return torch.relu(x)


class Fine(Fault):
    def fault(self):
        pass


class Raises(Fault):
    def fault(self):
        return 1 // 0


class Hangs(Fault):
    def fault(self):
        while True:
            time.sleep(0.05)


class Stops(Fault):
    def fault(self):
        os.kill(os.getpid(), signal.SIGSTOP)


class Killed(Fault):
    def fault(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Crashes(Fault):
    def fault(self):
        os.kill(os.getpid(), signal.SIGSEGV)


class Leaves(Fault):
    def fault(self):
        sys.exit(0)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunConfig, str], RunConfig]:
    folder = tmp_path_factory.mktemp("two")
    (folder / "faulty_ranks.py").write_text(FAULTY)
    sys.path.insert(0, str(folder))
    return lambda config, name: config.with_values(
        {"activation": {"_target_": f"faulty_ranks.{name}", "_partial_": True}}
    )


def listening() -> set[str]:
    """The sockets on which this process waits for somebody to connect."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    ours = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            ours.add(os.readlink(entry))
    return {row[9] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in ours}


WAYS = {
    "Raises": (
        ("failed", "error"),
        r"process 1 of 2: ZeroDivisionError: integer division or modulo by zero \(faulty_ranks.py:\d+\)",
        r"^\.\.\. \d+ lines before\n.*in fault\n    return 1 // 0\nZeroDivisionError: [^\n]*$",
    ),
    "Hangs": (
        ("failed", "hung"),
        r"process 1 of 2 hangs in fault \(faulty_ranks.py:\d+\): nothing went on for 4 s \(hang_timeout=4\)",
        r'^stack trace of rank 1:\n.*File "[^\n]*faulty_ranks.py", line \d+, in fault\n'
        r'stack trace of rank 0:\n  File "[^\n]*torch/autograd/graph.py", line \d+, in _engine_run_backward$',
    ),
    "Stops": (
        ("failed", "hung"),
        r"process 1 of 2 was stopped \(SIGSTOP\), and the others wait for it: nothing went on for 4 s .*",
        r"^stack trace of rank 0:\n  File [^\n]*_engine_run_backward$",
    ),
    "Killed": (("failed", "killed"), r"process 1 of 2 was killed by SIGKILL \(see run.log\)", None),
    "Crashes": (("failed", "killed"), r"process 1 of 2 was killed by SIGSEGV \(see run.log\)", r"line \d+, in fault$"),
    "Leaves": (
        ("failed", "error"),
        r"process 1 of 2: SystemExit: .*",
        r"in fault\n    sys.exit\(0\)\nSystemExit: 0$",
    ),
    "Fine": (("ok", None), None, None),
}


@pytest.mark.slow
def test_whose_fault_it_was(tiny_config: TinyConfig, two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "FAREWELL_S", 5.0)
    monkeypatch.setenv("WORLD_SIZE", "7")  # what some outer launcher said
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    config = tiny_config("strategy=ddp", "trainer.devices=2")
    environment, sockets, memory = dict(os.environ), listening(), shared_memory()
    settings = ExecutionConfig(jobs=2, retries=0, hang_timeout=4.0)
    records = Supervisor(settings, Told()).run(planned(tmp_path, *(two(config, name) for name in WAYS)))
    for index, (ending, reason, traceback) in enumerate(WAYS.values()):
        record, folder = records[index], tmp_path / str(index)
        assert (record.status, record.cause) == ending
        assert re.fullmatch(reason or "None", str(record.reason)), record.reason
        if traceback is not None:
            assert re.search(traceback, record.traceback or "", re.DOTALL), record.traceback
            assert len((record.traceback or "").splitlines()) <= 41
        assert read_record(folder / RECORD_FILE) == record
        assert [path.name for path in folder.glob(".*")] == [".lock"]
    assert processes_in(tmp_path) == []
    assert (dict(os.environ), listening(), shared_memory()) == (environment, sockets, memory)


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
