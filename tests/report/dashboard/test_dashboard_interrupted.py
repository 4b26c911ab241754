"""Event files of a run that was killed: readable at every moment, and one curve when the run has gone on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from boards import board, until
from commands import Command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from ablab.config import RunConfig
from ablab.results.record import Record
from ablab.study.supervision.supervisor import supervise

TinyConfig = Callable[..., RunConfig]
STEPS = list(range(1, 41))
KILLED = """
import json, os, signal, sys
from pathlib import Path
from ablab.config import RunConfig
from ablab.training.callbacks import ReportProgress
from ablab.training.begin import prepare_folder
from ablab.training.run import execute

def progress(step, steps, shown):
    if step >= 26:  # after the checkpoint of step 20
        os.kill(os.getpid(), signal.SIGKILL)

ReportProgress.INTERVAL_S = 0
config, folder = RunConfig.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2])
prepare_folder(config, folder)
execute(config, folder, progress=progress)
"""


def curve(folder: Path, tag: str = "train_loss") -> dict[int, float]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    points = events.Scalars(tag)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_killed_and_gone_on(
    tiny_config: TinyConfig,
    run: Callable[[RunConfig, Path], Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config("logger=tensorboard", "trainer.max_steps=40", "trainer.val_check_interval=10")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(config, whole)
    killed = Command([json.dumps(config.to_dict()), str(parts)], tmp_path, dict(os.environ), code=KILLED)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL

    first = curve(parts)  # readable, and what is there is right
    assert list(first) == STEPS[: len(first)]
    assert list(first)[-1] >= 20
    (file,) = parts.glob("events.out.tfevents.*")
    file.write_bytes(file.read_bytes()[:-7])  # killed in the middle of a write
    assert list(curve(parts)) == STEPS[: len(curve(parts))]

    # Names of files end with how many there were in the process, and 10 comes before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))
    assert run(config, parts).status == "ok"
    assert curve(parts) == curve(whole)
    assert list(curve(parts)) == STEPS
    assert curve(parts, "val_loss") == curve(whole, "val_loss")
    with board(tmp_path) as served:  # whose reader is another one
        rows = until(served.rows, lambda rows: len(rows) == 2)
        (session,) = rows["parts"]["sessions"]
        assert session["status"] == "STATUS_SUCCESS"
        found = until(
            lambda: served.get("plugin/scalars/scalars", run="parts", tag="train_loss"),
            lambda points: points and points[-1][1] == 40,
        )
        assert [step for _, step, _ in found] == STEPS


@pytest.mark.slow
def test_a_run_that_was_killed_is_shown_as_a_failure(tiny_config: TinyConfig, tmp_path: Path) -> None:
    config = tiny_config("logger=tensorboard", "trainer.max_steps=100000")

    def kill(step: int, steps: int, shown: str) -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, signal.SIGKILL)

    record = supervise(config, tmp_path / "run", kill)
    assert (record.status, record.reason) == ("failed", "the process was killed by SIGKILL (see run.log)")
    with board(tmp_path) as served:
        rows = until(served.rows)
        assert [session["status"] for row in rows.values() for session in row["sessions"]] == ["STATUS_FAILURE"]
