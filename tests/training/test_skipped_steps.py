"""A step that the scaler of float16 skips is none for the model, either."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hydra.utils import instantiate
from lightning import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from ablab.config import RunConfig
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.module import TrainingModule
from ablab.training.trainer import quiet_lightning

STEPS = 3
TOO_MUCH = 2.0**127  # scaled by it a loss above 2 is infinite, and half of it is still too much for gradients


def trained(config: RunConfig, scale: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights and buffers of a model before and after a few steps in float16."""
    task = build_task(config)
    model = build_model(config, task)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = instantiate(config.options["optimizer"], _convert_="all")
    schedule = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1.0)
    with quiet_lightning():
        Trainer(
            accelerator="cpu",
            max_steps=STEPS,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))],
        ).fit(TrainingModule(model, task, optimizer, schedule), datamodule=task)
    return before, model.state_dict()


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # which skipped steps do not hold up
@pytest.mark.parametrize("optimizer", ["adamw", "lion"])  # the first is fused
def test_a_balance_bias_moves_with_steps_that_are_taken_alone(
    optimizer: str, tiny_config: Callable[..., RunConfig]
) -> None:
    config = tiny_config("feed_forward=moe", "feed_forward.bias_speed=0.1", f"optimizer={optimizer}")
    before, after = trained(config, 1024.0)
    biases = [name for name in before if name.endswith("router.bias")]
    assert biases
    assert all(after[name].any() for name in biases)
    before, after = trained(config, TOO_MUCH)
    for name, value in before.items():
        assert torch.equal(after[name], value), name
