"""What a sweep prints, where nobody looks at a terminal: a line per run that has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ablab.results.record import Metric, Record
from ablab.study.progress import SweepProgress
from ablab.training.run import new_record


@pytest.fixture
def ended(tiny_config: Callable[..., dict[str, Any]]) -> Callable[..., Record]:
    def make(status: Any, reason: str | None = None, **metrics: float) -> Record:
        record = new_record(tiny_config())
        record.status, record.reason, record.metrics = status, reason, metrics
        record.primary = Metric(name="val_loss", split="val", direction="min")
        return record

    return make


def test_a_line_per_run_with_its_outcome(ended: Callable[..., Record], capsys: pytest.CaptureFixture[str]) -> None:
    with SweepProgress(total=12) as progress:
        progress.finished("attention=full seed=0", ended("ok", val_loss=1.23456), False, 10.0)
        progress.finished("attention=full seed=1", ended("ok", val_loss=2.0), True, 0.0)
        with progress.run("attention=[lsh]") as report:
            report(1, 10, "val_loss [bold]3")
        progress.finished("task.path=[x] seed=0", ended("failed", "ValueError: [/] is no markup"), False, 30.0)
        progress.finished("attention=lsh seed=1", ended("diverged", "train_loss became nan at step 7"), True, 0.0)
    printed = capsys.readouterr()
    assert [line.rstrip() for line in printed.out.splitlines()] == [
        "[ 1/12] ok          attention=full seed=0  val_loss 1.2346  10.0 s  (about 2 min left)",
        "[ 2/12] kept        attention=full seed=1  val_loss 2.0000  (about 2 min left)",
        "[ 3/12] failed      task.path=[x] seed=0  ValueError: [/] is no markup  30.0 s  (about 3 min left)",
        "[ 4/12] diverged    attention=lsh seed=1  train_loss became nan at step 7  (about 3 min left)",
    ]
    assert printed.err == ""


def test_the_time_left_comes_from_runs_that_were_run(
    ended: Callable[..., Record], capsys: pytest.CaptureFixture[str]
) -> None:
    with SweepProgress(total=3) as progress:
        progress.finished("a", ended("ok", val_loss=1.0), True, 0.0)
        assert "left" not in capsys.readouterr().out  # nothing known yet
        progress.finished("b", ended("ok", val_loss=1.0), False, 7.0)
        assert "(about 7 s left)" in capsys.readouterr().out
        progress.finished("c", ended("ok", val_loss=1.0), False, 7.0)
        assert "left" not in capsys.readouterr().out
