"""What a strategy remembers goes with the checkpoint: a run of several processes that was stopped ends as one that
was left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ranks import interrupt
from test_resume import assert_same, left_behind

from ablab.config import RunConfig
from ablab.results.store import RECORD_FILE
from ablab.study.supervision.supervisor import supervise

pytestmark = pytest.mark.usefixtures("_costs_are_known")

STEPS = ("trainer.max_steps=12", "trainer.val_check_interval=6", "trainer.log_every_n_steps=3", "model.dropout=0.1")
OPTIONS = [
    ("strategy=ddp_powersgd", "strategy.warmup_steps=2", "strategy.bucket_cap_mb=0.01"),
    ("strategy=ddp_topk", "strategy.warmup_steps=2", "activation=dynamic_sparse"),
    ("strategy=local_sgd", "strategy.period=4", "strategy.warmup_steps=1", "optimizer=adamw"),
    ("strategy=diloco", "strategy.period=4"),
    ("strategy=async_ddp", "schedule=gradient_variance"),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options[0])
def test_stopped_and_gone_on(tiny_config: Callable[..., RunConfig], tmp_path: Path, options: Any) -> None:
    config = tiny_config(*STEPS, *options)
    assert supervise(config, tmp_path / "whole", lambda step, steps, shown: None).status == "ok"
    interrupt(config, tmp_path / "parts", step=9)
    assert supervise(config, tmp_path / "parts", lambda step, steps, shown: None).status == "ok"
    assert_same(left_behind(tmp_path / "parts"), left_behind(tmp_path / "whole"))


@pytest.mark.slow
def test_killed_before_its_record(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """When all is trained; what processes told of themselves is told again."""
    config = tiny_config(*STEPS, "strategy=local_sgd", "strategy.period=4", "strategy.warmup_steps=1")
    assert supervise(config, tmp_path, lambda step, steps, shown: None).status == "ok"
    before = left_behind(tmp_path)
    assert {"strategy/meetings", "strategy/replica_spread"} <= before["mechanism"].keys()
    (tmp_path / RECORD_FILE).unlink()
    assert supervise(config, tmp_path, lambda step, steps, shown: None).status == "ok"
    assert_same(left_behind(tmp_path), before)
