"""Shorter runs on the way of a longer one: to the last bit what they are by themselves, whenever the run is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import ANNEAL_FOLDER, CHECKPOINT_FOLDER, METRICS_FILE
from ablab.study.planning.preflight import Preflight
from ablab.training import anneal
from ablab.training.build import BuiltRun

TinyConfig = Callable[..., RunConfig]
STABLE = ("schedule=warmup_stable_decay", "schedule.warmup_steps=2", "schedule.decay_share=0.5", "trainer.max_steps=12")
SHARES = "schedule.anneal_at=[0.5,0.66]"  # 6 and 8 steps, which decay from 3 and 4 on


def by_itself(run: Any, make: TinyConfig, folder: Path, steps: int, *words: str) -> Record:
    return run(make(*STABLE, *words, f"trainer.max_steps={steps}"), folder / f"{steps}")


@pytest.mark.parametrize(
    "words",
    [
        ("attention=windowed",),
        ("trainer.accumulate_grad_batches=2", "model.dropout=0.1", "feed_forward=moe"),
        ("optimizer=schedule_free", "trainer.gradient_clip_val=0.1"),
        ("optimizer=muon", "callbacks=[ema,gradient_norms,learning_rate_monitor]", "trainer.val_check_interval=5"),
        ("optimizer=soap", "attention=lsh", "trainer.precision=bf16-mixed"),
    ],
)
def test_a_shorter_run_is_that_run(words: tuple[str, ...], tiny_config: TinyConfig, tmp_path: Path, run: Any) -> None:
    """With whatever optimizer, clipping, accumulation and callbacks; and the longer run is as it is without."""
    longer = run(tiny_config(*STABLE, SHARES, *words), tmp_path / "longer")
    alone = run(tiny_config(*STABLE, *words), tmp_path / "alone")
    assert longer.status == "ok", longer.traceback
    assert longer.metrics == alone.metrics
    assert longer.mechanism == alone.mechanism
    assert longer.last == alone.last
    assert (tmp_path / "longer" / METRICS_FILE).read_text() == (tmp_path / "alone" / METRICS_FILE).read_text()
    assert [each.step for each in longer.annealed] == [6, 8]
    for each in longer.annealed:
        shorter = by_itself(run, tiny_config, tmp_path, each.step, *words)
        assert each.metrics == shorter.metrics
        assert (each.tokens, each.flops) == (shorter.cost.tokens, shorter.cost.flops_total)
    assert not (tmp_path / "longer" / CHECKPOINT_FOLDER / ANNEAL_FOLDER).exists()
    assert longer.cost.annealing_steps == 3 + 4
    assert longer.cost.annealing_flops == 7 * (longer.cost.flops_per_step or 0)
    assert (longer.cost.steps, longer.cost.tokens) == (alone.cost.steps, alone.cost.tokens)
