"""Tasks under two processes and with loader workers: the same samples, each once, and the metrics of one process.

That of pixels is in `test_pixels.py`, with its pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ablab.config import RunConfig
from ablab.results.record import Record
from ablab.study.supervision.supervisor import supervise

pytestmark = pytest.mark.usefixtures("_costs_are_known")

SETTINGS = {
    "spoken_arithmetic": ["task.eval_samples=7", "task.eval_batch_size=3", "task.modality_dropout=0.3"],
    "needle": ["task.eval_samples=5", "task.eval_batch_size=3"],
    "classification": ["task.seq_len=24", "task.eval_batch_size=5"],
}


@pytest.mark.slow
@pytest.mark.parametrize("task", SETTINGS)
def test_two_processes_with_workers_evaluate_what_one_does(
    task: str,
    tiny_config: Callable[..., RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path: Path,
) -> None:
    settings = [f"task={task}", *SETTINGS[task], "trainer.max_steps=2", "trainer.val_check_interval=2"]
    one = run(tiny_config(*settings), tmp_path / "one")
    both_config = tiny_config(*settings, "strategy=ddp", "trainer.devices=2", "task.workers=1")
    both = supervise(both_config, tmp_path / "both", lambda step, steps, shown: None)
    assert (both.status, both.reason) == ("ok", None), both.reason
    assert one.evaluated == both.evaluated
    assert min(one.evaluated.values()) > 0
    assert one.metrics.keys() == both.metrics.keys()
    for name, value in one.metrics.items():
        assert both.metrics[name] == pytest.approx(value, abs=1e-4), name
