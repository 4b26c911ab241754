"""What a run costs beyond its training: figures that hang together, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from statistics import median

import pytest
from commands import Command

from ablab.bench.runs import bench_runs
from ablab.errors import UserError

TINY = [
    *("task=text", "task.seq_len=32", "task.batch_size=4", "task.eval_tokens=256", "model.d_model=16"),
    *("model.n_layers=1", "trainer.accelerator=cpu", "trainer.max_steps=4", "trainer.val_check_interval=2"),
    *("trainer.log_every_n_steps=2", "logger=csv"),
]


def forked(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
    """Run it as a process that has imported everything; how long it takes is nothing here."""
    process = Command(command[3:], Path.cwd(), dict(os.environ))
    out, err = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.slow
def test_both_ways_are_timed_in_turn(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablab.bench.runs.subprocess.run", forked)
    text = bench_runs([*TINY, f"task.path={corpus}"], 1, tmp_path / "runs.json")
    figures = json.loads((tmp_path / "runs.json").read_text())
    assert len(figures["rounds"]) == 1
    for way in ("warm_s", "cold_s"):
        assert figures[way] == median(each[way] for each in figures["rounds"]) > 0
    assert figures["ratio"] == pytest.approx(figures["cold_s"] / figures["warm_s"])
    assert f"ratio {figures['ratio']:.1f}" in text


def test_what_cannot_be_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--rounds 0: must be at least 1"):
        bench_runs(TINY, 0, None)
    with pytest.raises(UserError, match="no such folder"):
        bench_runs(TINY, 1, tmp_path / "nowhere" / "runs.json")
    with pytest.raises(UserError, match="is a folder"):
        bench_runs(TINY, 1, tmp_path)
    with pytest.raises(UserError, match=r"model\.n_heads=7"):
        bench_runs([*TINY, f"task.path={corpus}", "model.n_heads=7"], 1, None)
