"""Trials with real runs, on a device that is a CPU to them, and on a real one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ablab.config import RunConfig
from ablab.config.schema import ExecutionConfig
from ablab.study.events import Observer, RunOutline
from ablab.study.plan_file import PlannedRun
from ablab.study.supervision.packing import measure, sharing
from ablab.study.supervision.supervisor import Supervisor

CUDA = pytest.mark.cuda


@pytest.mark.parametrize("names", [pytest.param(["0"], marks=pytest.mark.slow), pytest.param(None, marks=CUDA)])
def test_runs_are_tried_and_then_run(
    tiny_config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    names: list[str] | None,
) -> None:
    monkeypatch.setattr(sharing, "_KNOWN", {})
    monkeypatch.setattr(sharing, "cores", lambda: 2)
    monkeypatch.setattr(measure, "WINDOW_S", 0.3)
    monkeypatch.setattr(measure, "_WARM", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = tiny_config("trainer.max_steps=30").with_values({"trainer.accelerator": "auto"})
    runs = [
        PlannedRun(
            info=RunOutline(index=seed, variant="", task="text", seed=seed, steps=30),
            config=config.with_values({"seed": seed}),
            folder=tmp_path / "study" / str(seed),
        )
        for seed in range(2)
    ]
    settings = ExecutionConfig(runs_per_device="auto", retries=0)
    records = Supervisor(settings, Observer(), names=names).run(runs)
    assert [(records[seed].status, records[seed].attempts) for seed in range(2)] == [("ok", 1)] * 2
    line = capsys.readouterr().err
    assert line.startswith("ablab: runs_per_device=auto: ")
    assert "steps a second by runs side by side: 1: " in line
    assert ("; without MPS, since " in line) or (names is None and line.endswith("; by MPS\n"))
    assert not list(tmp_path.glob("ablab-*")), "a trial is left"
