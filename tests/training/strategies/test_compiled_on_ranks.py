"""Compiled training among several processes: what each strategy learns compiled is what it learns otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from mixtures import fit
from ranks import together

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.study.planning.check_trainer import check_trainer
from ablab.training import compile as compiling
from ablab.training.build import BuiltRun

SIZES = ("trainer.max_steps=3", "model.n_layers=2", "model.dropout=0.1", "task.batch_size=4", "optimizer=sgd")
STRATEGIES = ("ddp", "fsdp", "pipeline", "diloco", "ddp_powersgd", "async_ddp")


def fit_both(rank: int, pairs: Sequence[tuple[RunConfig, RunConfig]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "BACKEND", "eager")
        return [(fit(BuiltRun.of(one)), fit(BuiltRun.of(other))) for one, other in pairs]


@pytest.mark.slow
def test_strategies_learn_the_same_compiled(tiny_config: Callable[..., RunConfig]) -> None:
    words = [(*SIZES, f"strategy={name}") for name in STRATEGIES]
    pairs = [(tiny_config(*each), tiny_config(*each, "trainer.compile=true")) for each in words]
    for found in together(fit_both, 2, pairs, group=False):
        for name, (plain, compiled) in zip(STRATEGIES, found, strict=True):
            for key, value in plain["weights"].items():
                torch.testing.assert_close(compiled["weights"][key], value, msg=f"{name}: {key}")


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [("tensor", "true"), ("hybrid", "true"), ("pipeline", "reduce-overhead")],
)
def test_strategies_that_cannot_say_so(strategy: str, asked: str, tiny_config: Callable[..., RunConfig]) -> None:
    devices = 4 if strategy == "hybrid" else 2
    config = tiny_config(f"strategy={strategy}", f"trainer.devices={devices}", f"trainer.compile={asked}")
    with pytest.raises(UserError, match=rf"strategy={strategy} does not work with trainer\.compile={asked}: \w+"):
        check_trainer(config)
