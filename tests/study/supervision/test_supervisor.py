"""Whatever kills a run kills nothing else: the run has a record that says why, and the sweep goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ablab.results.record import Record
from ablab.results.store import LOG_FILE, RECORD_FILE, read_record
from ablab.study.supervision.supervisor import _why, supervise

if TYPE_CHECKING:
    from conftest import Lab

TinyConfig = Callable[..., dict[str, Any]]
Faulty = Callable[[str], dict[str, object]]


def ignored(step: int, steps: int, shown: str) -> None: ...


def supervised(config: dict[str, Any], folder: Path) -> Record:
    record = supervise(config, folder, ignored)
    assert read_record(folder / RECORD_FILE).status == record.status
    return record


@pytest.mark.slow
@pytest.mark.timeout(60)  # the other rank would wait in its first all-reduce for half an hour
def test_a_rank_that_dies_ends_its_run(tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path) -> None:
    config = tiny_config("strategy=ddp", "trainer.devices=2") | {"activation": faulty("rank_dies")}
    record = supervised(config, tmp_path)
    assert record.status == "failed"
    assert record.reason == "process 1 was killed by SIGKILL; out of memory?"
    assert processes_in(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "status", "reason"),
    [
        ("raises", "failed", "RuntimeError: the bulb is broken (faulty.py:"),
        ("diverges", "diverged", "train_loss became nan at step 4"),
        ("killed", "failed", "the process was killed by SIGKILL; out of memory?"),
    ],
)
def test_how_a_run_ended(
    tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path, option: str, status: str, reason: str
) -> None:
    config = tiny_config("trainer.val_check_interval=4", "trainer.log_every_n_steps=4") | {"activation": faulty(option)}
    record = supervised(config, tmp_path)
    assert record.status == status
    assert record.reason is not None
    assert record.reason.startswith(reason)
    assert record.config == config
    if option == "raises":
        assert "Traceback" in (tmp_path / LOG_FILE).read_text()


@pytest.mark.parametrize(
    ("exit_status", "words"),
    [
        (None, "rank ended without a record (see run.log)"),
        (0, "rank ended without a record (see run.log)"),
        (3, "rank ended with exit status 3 (see run.log)"),
        (-signal.SIGSEGV, "rank was killed by SIGSEGV (see run.log)"),
        (-signal.SIGKILL, "rank was killed by SIGKILL; out of memory?"),
    ],
)
def test_why_a_process_died(exit_status: int | None, words: str) -> None:
    assert _why("rank", exit_status) == words


SWEEP = ("name=faults", "activation=relu,raises,diverges,killed")


@pytest.mark.slow
def test_a_sweep_sees_every_run_to_its_end_and_runs_again_what_failed(lab: Lab) -> None:
    first = lab.sweep(*SWEEP)
    assert first.status == 1, first.err
    assert first.err.splitlines() == ["ablab: 3 of 4 runs did not end well; see the run health"]

    compared = json.loads(lab.ablab("compare", "outputs/faults", "--format", "json").out)["runs"]
    rows = {row["variant"].removeprefix("activation="): (row["status"], row["reason"]) for row in compared}
    assert {option: status for option, (status, _) in rows.items()} == {
        "relu": "ok",
        "raises": "failed",
        "diverges": "diverged",
        "killed": "failed",
    }
    assert "RuntimeError: the bulb is broken" in rows["raises"][1]
    assert "became nan" in rows["diverges"][1]
    assert "killed by SIGKILL" in rows["killed"][1]

    # Again: what has ended by itself is kept, to the byte; what failed is run anew.
    records = {path: path.stat().st_mtime_ns for path in lab.folder.glob("outputs/faults/**/record.json")}
    assert len(records) == 4
    second = lab.sweep(*SWEEP)
    assert second.status == 1
    assert [run[0] for run in second.runs] == ["kept", "failed", "diverged", "failed"]
    kept = {path.parent.parent.name for path, written in records.items() if path.stat().st_mtime_ns == written}
    assert kept == {"activation=relu", "activation=diverges"}

    # A changed setting makes another run of one that was kept.
    third = lab.sweep(*SWEEP, "activation=relu,diverges", "optimizer.lr=0.01")
    assert [run[0] for run in third.runs] == ["ok", "diverged"]
    changed = {path.parent.parent.name for path, written in records.items() if path.stat().st_mtime_ns != written}
    assert changed == {f"activation={option}" for option in ("relu", "raises", "diverges", "killed")}


@pytest.mark.slow
def test_one_process_and_two_side_by_side(lab: Lab) -> None:
    ended = lab.sweep("name=processes", "strategy=single,ddp")
    assert ended.status == 0, ended.err
    assert [run[0] for run in ended.runs] == ["ok", "ok"]
    one, two = (
        read_record(lab.folder / f"outputs/processes/strategy={option}/seed=0" / RECORD_FILE)
        for option in ("single", "ddp")
    )
    assert two.metrics["val_loss"] == pytest.approx(one.metrics["val_loss"], abs=1e-5)
    assert two.cost.tokens == one.cost.tokens


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_in_order_and_the_same_command_finishes_it(lab: Lab) -> None:
    sweep = ("name=stopped", "activation=relu,slow", "trainer.max_steps=20")
    (lab.folder / "slow").touch()
    with started(lab, "-m", *sweep) as process:
        folder = lab.folder / "outputs" / "stopped" / "activation=slow" / "seed=0"
        wait_for(lambda: (folder / "metrics.csv").exists() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.strip() == "ablab: interrupted; the same command goes on with the runs that are left"
    assert "Traceback" not in out
    record = read_record(folder / RECORD_FILE)
    assert (record.status, record.reason) == ("interrupted", "stopped before it was finished")
    wait_for(lambda: not processes_in(lab.folder))

    (lab.folder / "slow").unlink()
    again = lab.sweep(*sweep)
    assert again.status == 0, again.err
    assert [run[0] for run in again.runs] == ["kept", "ok"]


@contextlib.contextmanager
def started(lab: Lab, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = lab.start(*words)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for(happened: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def processes_in(folder: Path) -> list[int]:
    """The processes that work in `folder`, or write there (Linux tells; elsewhere none is found)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            used = [os.readlink(entry / "cwd"), *(os.readlink(each) for each in (entry / "fd").iterdir())]
            if any(path.startswith(str(folder)) for path in used):
                found.append(int(entry.name))
    return found
