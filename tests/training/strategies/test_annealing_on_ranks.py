"""Shorter runs on the way of a longer one of several processes are what they are by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ablab.config import RunConfig
from ablab.study.supervision.supervisor import supervise

pytestmark = pytest.mark.usefixtures("_costs_are_known")

STABLE = ("schedule=warmup_stable_decay", "schedule.warmup_steps=1", "schedule.decay_share=0.5", "model.dropout=0.1")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_with_whole_models_and_with_shards(
    strategy: str, tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    lengths = {"longer": ("trainer.max_steps=8", "schedule.anneal_at=[0.5]"), "alone": ("trainer.max_steps=4",)}
    longer, alone = (
        supervise(
            tiny_config(f"strategy={strategy}", *STABLE, *words), tmp_path / name, lambda step, steps, shown: None
        )
        for name, words in lengths.items()
    )
    assert (longer.status, longer.reason) == ("ok", None)
    assert [each.metrics for each in longer.annealed] == [alone.metrics]
    assert longer.annealed[0].flops == alone.cost.flops_total
