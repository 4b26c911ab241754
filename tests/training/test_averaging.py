"""Averages of the weights: what is evaluated, what is kept, and what another run goes on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from test_resume import assert_same
from torch import Tensor, nn

from ablab.config import RunConfig
from ablab.results.record import Record
from ablab.training.averaging import EMAWeightAveraging, WeightAveraging
from ablab.training.generation import load_run

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]


def test_what_is_evaluated_and_kept_are_averaged_weights(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """What is trained is what is trained without; what is kept is the mean of the weights after each step."""
    settings = ("optimizer.lr=0.01", "schedule=constant", "schedule.warmup_share=0", "model.tie_embeddings=false")
    after: list[dict[str, Tensor]] = []
    for steps in (1, 2, 3):
        assert run(tiny_config(*settings, f"trainer.max_steps={steps}"), tmp_path / str(steps)).status == "ok"
        after.append(load_run(tmp_path / str(steps), "last")[0].state_dict())
    config = tiny_config(*settings, "trainer.max_steps=3", "trainer.val_check_interval=3", "callbacks=weight_averaging")
    record = run(config, tmp_path / "averaged")
    assert record.status == "ok", record.reason
    kept, task = load_run(tmp_path / "averaged", "best")
    for name, value in kept.state_dict().items():
        mean = torch.stack([weights[name] for weights in after]).mean(0)
        torch.testing.assert_close(value, mean, rtol=0, atol=1e-6, msg=name)
    trained = torch.load(tmp_path / "averaged" / "checkpoints" / "last.ckpt", weights_only=True)["current_model_state"]
    assert_same({name.removeprefix("model."): value for name, value in trained.items()}, after[-1])

    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, targets in task.val_dataloader():
            nats = nn.functional.cross_entropy(kept(inputs).flatten(0, 1), targets.flatten(), reduction="none")
            total, count = total + float(nats.double().sum()), count + nats.numel()
    assert record.metrics["val_loss"] == pytest.approx(total / count, rel=1e-6)


def test_until_a_step_counts_what_is_trained_is_evaluated(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """The average of steps 4 and 5 of 5; the run without any average has the same losses until then."""
    config = tiny_config("trainer.max_steps=5", "trainer.val_check_interval=1", "trainer.log_every_n_steps=1")
    kinds: dict[str, dict[str, Any]] = {
        "ema": {"_target_": "ablab.training.averaging.EMAWeightAveraging", "decay": 0.5, "update_starting_at_step": 3},
        "mean": {"_target_": "ablab.training.averaging.WeightAveraging"},
    }
    losses = {}
    for name in ("none", *kinds):
        callbacks = {name: kinds[name]} if name in kinds else {}
        record = run(replace(config, options=config.options | {"callbacks": callbacks}), tmp_path / name)
        assert record.status == "ok", record.reason
        losses[name] = record.last["val_loss"]
    assert losses["ema"][:4] == losses["none"][:4]  # of one step alone the average is that step
    assert losses["ema"][4] != losses["none"][4]
    assert losses["mean"][0] == losses["none"][0] != losses["mean"][1]


@pytest.mark.parametrize("kind", ["ablab.training.averaging", "lightning.pytorch.callbacks"])
def test_an_average_of_no_step_is_told(kind: str, tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """And the checkpoint has the trained weights twice, for a fork to change each."""
    late = {"_target_": f"{kind}.EMAWeightAveraging", "update_starting_at_step": 6}
    config = tiny_config("trainer.max_steps=6")
    record = run(replace(config, options=config.options | {"callbacks": {"mine": late}}), tmp_path)
    assert record.notes == ["EMAWeightAveraging: none of the 6 steps is one that it averages"]
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["state_dict"] is not saved["current_model_state"]


def test_the_last_checkpoint_has_what_was_trained(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """Also where the last step is evaluated when the model has the average already: another run goes on from it."""
    steps = "trainer.max_steps=5", "trainer.val_check_interval=2"
    assert run(tiny_config(*steps), tmp_path / "plain").status == "ok"
    assert run(tiny_config(*steps, "callbacks=ema"), tmp_path / "ema").status == "ok"
    plain, ema = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("plain", "ema")
    )
    assert_same(ema["current_model_state"], plain["state_dict"])
    name = "model.head.weight"
    assert not torch.equal(ema["state_dict"][name], ema["current_model_state"][name])


@pytest.mark.parametrize("average", [EMAWeightAveraging(decay=0.9), WeightAveraging()])
def test_what_never_changes_is_its_own_average(average: WeightAveraging) -> None:
    """Tables of whole numbers, which an average in float32 that is cut off shifts, and of others, to the last bit."""
    module = LightningModule()
    tables = {"places": torch.arange(513), "angles": torch.linspace(0, 7, 513).cos(), "on": torch.tensor([True, False])}
    for name, table in tables.items():
        module.register_buffer(name, table)
    module.weight = nn.Parameter(torch.zeros(3))
    average.setup(Trainer(logger=False, enable_checkpointing=False), module, "fit")
    shown: dict[str, Any] = {"state_dict": module.state_dict()}
    for step in range(1, 20):
        module.weight.data.fill_(step)
        average.on_train_batch_end(SimpleNamespace(global_step=step), module, None, None, step)  # type: ignore[arg-type]
    average.on_save_checkpoint(Trainer(logger=False), module, shown)
    for name, table in tables.items():
        assert torch.equal(shown["state_dict"][name], table), name
    assert 0 < shown["state_dict"]["weight"][0] < 19
