"""How a run ended, as its record tells it: by itself, or by whatever killed it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import processes_in

from ablab.config import RunConfig
from ablab.results.record import Record
from ablab.results.store import LOG_FILE, RECORD_FILE, read_record
from ablab.study.supervision import attempt
from ablab.study.supervision.ending import why
from ablab.study.supervision.supervisor import supervise

TinyConfig = Callable[..., RunConfig]
Faulty = Callable[[str], dict[str, object]]


def ignored(step: int, steps: int, shown: str) -> None: ...


def supervised(config: RunConfig, folder: Path) -> Record:
    record = supervise(config, folder, ignored)
    assert read_record(folder / RECORD_FILE) == record
    return record


@pytest.mark.slow
@pytest.mark.parametrize("farewell_s", [0.0, 15.0], ids=["at once", "in time"])
@pytest.mark.timeout(60)  # the other rank would wait in its first all-reduce for half an hour
def test_a_rank_that_dies_ends_its_run(
    tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path, farewell_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the other rank ends when it is told to, or has to be killed."""
    monkeypatch.setattr(attempt, "FAREWELL_S", farewell_s)
    config = tiny_config("strategy=ddp", "trainer.devices=2").with_values({"activation": faulty("rank_dies")})
    record = supervised(config, tmp_path)
    assert (record.status, record.cause) == ("failed", "killed")
    assert record.reason == "process 1 of 2 was killed by SIGKILL (see run.log)"
    assert processes_in(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "status", "cause", "reason"),
    [
        ("raises", "failed", "error", "RuntimeError: the bulb is broken (faulty.py:"),
        ("diverges", "diverged", None, "train_loss became nan at step 4"),
        ("killed", "failed", "killed", "the process was killed by SIGKILL (see run.log)"),
        (
            *("aborts", "failed", "killed"),
            "the process was killed by SIGABRT: terminate called after throwing an instance of 'Bulb' what(): it is "
            "broken (see run.log)",
        ),
        ("leaves", "failed", "killed", "the process ended with exit status 3 (see run.log)"),
        ("quits", "failed", "error", "SystemExit: 3 (faulty.py:"),
        ("hungry", "failed", "memory", "out of memory: OutOfMemoryError: CUDA out of memory."),
    ],
)
def test_how_a_run_ended(
    tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path, option: str, status: str, cause: str | None, reason: str
) -> None:
    config = tiny_config("trainer.val_check_interval=4", "trainer.log_every_n_steps=4").with_values(
        {"activation": faulty(option)}
    )
    record = supervised(config, tmp_path)
    assert (record.status, record.cause) == (status, cause)
    assert record.reason is not None
    assert record.reason.startswith(reason)
    assert record.config == config.to_dict()
    if option == "raises":
        assert "Traceback" in (tmp_path / LOG_FILE).read_text()
        assert (record.traceback or "").endswith("\nRuntimeError: the bulb is broken")
    if option == "killed":
        assert record.cost.wall_time_s
        assert record.cost.peak_memory_bytes is None or record.cost.peak_memory_bytes > 2**20


def test_a_kill_while_the_kernel_counts_one_for_want_of_memory(
    tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr(attempt, "oom_kills", lambda: next(counts))
    record = supervised(tiny_config().with_values({"activation": faulty("killed")}), tmp_path)
    assert (record.cause, record.reason) == ("memory", "out of memory: the process was killed by the kernel")


@pytest.mark.parametrize(
    ("exit_status", "words"),
    [
        (None, "rank ended without a record (see run.log)"),
        (0, "rank ended without a record (see run.log)"),
        (3, "rank ended with exit status 3 (see run.log)"),
        (-signal.SIGSEGV, "rank was killed by SIGSEGV (see run.log)"),
        (-signal.SIGKILL, "rank was killed by SIGKILL (see run.log)"),
    ],
)
def test_why_a_process_died(exit_status: int | None, words: str) -> None:
    assert why("rank", exit_status) == words


def test_a_run_of_one_process_that_hangs_is_ended(tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path) -> None:
    record = supervised(tiny_config("hang_timeout=2").with_values({"activation": faulty("hangs")}), tmp_path)
    assert (record.status, record.cause) == ("failed", "hung")
    assert re.fullmatch(
        r"the process hangs in fault \(faulty.py:\d+\): nothing went on for 2 s \(hang_timeout=2\)", str(record.reason)
    )
    assert "in fault" in str(record.traceback)
