"""The bench of strategies runs each in turn and pairs what it finds by round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablab.bench.strategies import bench_strategies
from ablab.errors import UserError

SMALL = ["task.seq_len=32", "task.batch_size=4", "task.eval_tokens=256", "model.d_model=16", "model.n_heads=2"]


@pytest.mark.slow
def test_strategies_in_turn(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    ways = ["single", "ddp,strategy.bucket_cap_mb=1"]
    overrides = [*SMALL, "trainer.accelerator=cpu", "trainer.log_every_n_steps=2"]
    text = bench_strategies(overrides, ways, steps=6, rounds=1, output=output)
    figures = json.loads(output.read_text())
    one, two = figures["speeds"]
    assert [one["strategy"], two["strategy"]] == ways
    assert [one["processes"], two["processes"]] == [1, 2]
    assert one["ratios"] == [1.0]
    assert two["ratios"] == [two["tokens_per_second"][0] / one["tokens_per_second"][0]]
    assert one["sent_bytes_per_step"] == 0
    assert two["sent_bytes_per_step"] == pytest.approx(
        4 * figures["parameters"]
    )  # a ring of two sends each number once
    assert "ratio to single in the same round: median, least and most of 1 rounds in turn" in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rounds": 0}, "--rounds 0: must be at least 1"),
        ({"output": Path("/nowhere/figures.json")}, "no such folder"),
        ({"output": Path("/")}, "--json /: is a folder"),
        ({"strategies": ["ddp,trainer.devices=1"]}, "needs at least 2 processes"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"strategies": ["single"], "steps": 4, "rounds": 1, "output": None} | settings
    with pytest.raises(UserError, match=words):
        bench_strategies(SMALL, **given)
