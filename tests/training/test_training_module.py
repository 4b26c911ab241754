"""Lightning's training beside loops that are written by hand."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer

from ablab.config import RunConfig
from ablab.model.transformer import Transformer
from ablab.results.record import Record
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.generation import load_run
from ablab.training.module import TrainingModule
from ablab.training.optimizers.groups import build_optimizer
from ablab.training.trainer import quiet_lightning

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]


def by_hand(
    config: RunConfig, penalty: Callable[[nn.Module], Tensor] | None = None
) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """The weights, the losses and the learning rates of a plain loop over the task's batches.

    `penalty` of the model is minimised too, and is no part of the losses.
    """
    trainer, task = config.options["trainer"], build_task(config)
    model = build_model(config, task)
    optimizer = build_optimizer(instantiate(config.options["optimizer"]), model)
    schedule = instantiate(config.options["schedule"])(optimizer)
    batches, losses, rates = iter(task.train_dataloader()), [], []
    for step in range(trainer["max_steps"]):
        model.resample(step)
        parts = []
        for inputs, targets in islice(batches, trainer["accumulate_grad_batches"]):
            parts.append(task.loss(model(inputs), targets) / trainer["accumulate_grad_batches"])
            parts[-1].backward()
            if penalty is not None:
                (penalty(model) / trainer["accumulate_grad_batches"]).backward()
        losses.append(sum(part.item() for part in parts))
        rates.append(optimizer.param_groups[0]["lr"])
        if trainer["gradient_clip_val"] is not None:
            # In the optimizer's order, since a sum in another order has other last bits.
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, trainer["gradient_clip_val"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.state_dict(), losses, rates


def weights(folder: Path) -> dict[str, Tensor]:
    return load_run(folder, "last", trust=True)[0].state_dict()


def curves(folder: Path, metric: str) -> dict[int, float]:
    """The values of one column of metrics.csv, by step."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return {int(row["step"]): float(row[metric]) for row in csv.DictReader(file) if row[metric]}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.gradient_clip_val=0.1",),
        ("trainer.gradient_clip_val=null", "optimizer=sgd"),
        ("trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.1"),
        ("schedule=gradient_variance", "attention=lsh", "attention.bucket_size=8", "activation=dynamic_sparse"),
    ],
)
def test_weights_losses_and_rates_are_those_of_a_loop_by_hand(
    overrides: tuple[str, ...], tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    """Seven steps, evaluated after four. The gradients' norm is above the clip: without clipping, other weights."""
    config = tiny_config("trainer.max_steps=7", "trainer.val_check_interval=4", *overrides)
    config = config.with_values({"trainer.log_every_n_steps": 4})
    assert run(config, tmp_path).status == "ok"
    expected, losses, rates = by_hand(config)
    assert_same(weights(tmp_path), expected)
    assert curves(tmp_path, "train_loss") == {4: pytest.approx(losses[3], abs=1e-6)}
    assert curves(tmp_path, "learning_rate") == {4: pytest.approx(rates[3], rel=1e-6)}


SHRINKING = (
    "activation._target_=penalties.Shrinking",
    "model.n_layers=2",
    "optimizer.lr=0.01",
    "trainer.accumulate_grad_batches=3",
)


def slopes(model: nn.Module) -> Tensor:
    """The penalty of `penalties.Shrinking`, read off the parameters."""
    return sum(
        (3 * value.square().sum() for name, value in model.named_parameters() if name.endswith("slope")),
        torch.zeros(()),
    )


def test_a_penalty_is_minimised_and_not_logged(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    config = tiny_config(*SHRINKING)
    assert run(config, tmp_path).status == "ok"
    expected, losses, _ = by_hand(config, slopes)
    # Gradients are summed in another order here, so that last bits may differ.
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)
    assert curves(tmp_path, "train_loss") == pytest.approx(dict(enumerate(losses, start=1)), abs=1e-5)
    without, _, _ = by_hand(config)
    slope = "blocks.0.feed_forward.activation.slope"
    assert abs(without[slope] - expected[slope]) > 1e-4  # or its absence would not be noticed


def test_models_without_a_penalty_do_not_pay_for_it(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: Transformer) -> Tensor:
        raise AssertionError("asked for")

    monkeypatch.setattr(Transformer, "penalty", refuse)
    assert run(tiny_config(), tmp_path).status == "ok"


def test_clipping_changes_the_weights(tiny_config: TinyConfig) -> None:
    """Or the test above would not notice its absence."""
    loose, tight = (by_hand(tiny_config(f"trainer.gradient_clip_val={clip}", "optimizer=sgd")) for clip in (100, 0.1))
    assert not torch.allclose(loose[0]["embedding.weight"], tight[0]["embedding.weight"])


def test_accumulated_batches_are_one_larger_batch(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """The same windows, in batches of 2 thrice a step and in batches of 6."""
    small = tiny_config("task.batch_size=2", "trainer.accumulate_grad_batches=3", "optimizer=sgd")
    assert run(small, tmp_path).status == "ok"

    task = build_task(small)
    model = build_model(small, task)
    optimizer = build_optimizer(instantiate(small.options["optimizer"]), model)
    schedule = instantiate(small.options["schedule"])(optimizer)
    clip = small.trainer.gradient_clip_val
    assert clip is not None
    batches = iter(task.train_dataloader())
    for _ in range(small.trainer.max_steps):
        inputs, targets = (torch.cat(parts) for parts in zip(*islice(batches, 3), strict=True))
        task.loss(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=1e-6)


def test_what_is_logged_changes_no_weight(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    settings = ("trainer.max_steps=20", "attention=lsh", "attention.bucket_size=8", "model.dropout=0.2")
    for every in (1, 10):
        logged = (f"trainer.log_every_n_steps={every}", "trainer.val_check_interval=10")
        assert run(tiny_config(*settings, *logged), tmp_path / str(every)).status == "ok"
    assert_same(weights(tmp_path / "1"), weights(tmp_path / "10"))


@pytest.mark.parametrize(
    ("steps", "log", "val", "logged", "evaluated"),
    [
        (13, 4, 6, [4, 8, 12], [6, 12, 13]),
        (12, 3, 4, [3, 6, 9, 12], [4, 8, 12]),
        (5, 5, 100, [5], [5]),  # evaluated only because it has ended
        (4, 10, 2, [], [2, 4]),
    ],
)
def test_curves_are_logged_and_models_evaluated_when_asked(
    steps: int,
    log: int,
    val: int,
    logged: list[int],
    evaluated: list[int],
    tiny_config: TinyConfig,
    run: Run,
    tmp_path: Path,
) -> None:
    settings = (f"max_steps={steps}", f"log_every_n_steps={log}", f"val_check_interval={val}")
    record = run(tiny_config(*(f"trainer.{setting}" for setting in settings)), tmp_path)
    assert record.cost.steps == steps
    header = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()[0]
    assert list(curves(tmp_path, "train_loss") if "train_loss" in header else []) == logged
    assert list(curves(tmp_path, "val_loss")) == evaluated
    assert record.metrics["val_loss"] == pytest.approx(curves(tmp_path, "val_loss")[steps], abs=1e-6)


def test_an_evaluation_is_over_all_tokens_whatever_the_batch(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """The mean over the tokens of the split, by hand; batches of 3 windows leave a shorter one at the end."""
    config = tiny_config("task.eval_batch_size=3", "task.eval_tokens=null", "task.test_fraction=0.1")
    record = run(config, tmp_path)
    model, task = load_run(tmp_path, "last")
    for split in ("val", "test"):
        total, count = 0.0, 0
        for inputs, targets in getattr(task, f"{split}_dataloader")():
            with torch.no_grad():
                chances = model(inputs).double().log_softmax(-1)
            for row, wanted in zip(chances.flatten(0, 1), targets.flatten().tolist(), strict=True):
                if wanted >= 0:
                    total -= row[wanted].item()
                    count += 1
        assert count > 32
        assert record.metrics[f"{split}_loss"] == pytest.approx(total / count, rel=1e-6)


class InTheirOwnSize(Callback):
    """Keeps the gradients' norms before each step, as a callback sees them, and after."""

    def __init__(self) -> None:
        self.norms: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        self.norms.append([self.norm(module)])

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *what: Any) -> None:
        self.norms[-1].append(self.norm(module))

    def norm(self, module: LightningModule) -> float:
        return float(nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))


def in_half_precision(config: RunConfig, scale: float) -> tuple[list[list[float]], list[Tensor]]:
    task = build_task(config)
    module = TrainingModule(
        build_model(config, task),
        task,
        instantiate(config.options["optimizer"], _convert_="all"),
        partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1.0),
    )
    seen = InTheirOwnSize()
    with quiet_lightning():
        Trainer(
            accelerator="cpu",
            max_steps=4,
            limit_val_batches=0,
            gradient_clip_val=0.25,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[seen],
            plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))],
        ).fit(module, datamodule=task)
    return seen.norms, [parameter.detach() for parameter in module.parameters()]


@pytest.mark.parametrize("option", ["sgd", "adamw", "lion"])  # the first two are fused
def test_the_scaling_of_float16_changes_nothing(option: str, tiny_config: TinyConfig) -> None:
    """By 1, which is none, or by 1024: gradients are clipped to the same, and callbacks see the same before it."""
    config = tiny_config(f"optimizer={option}", "optimizer.lr=0.001")
    (norms, weights), (scaled_norms, scaled_weights) = (in_half_precision(config, scale) for scale in (1.0, 1024.0))
    assert len(norms) == 4
    for (before, after), scaled in zip(norms, scaled_norms, strict=True):
        assert scaled == pytest.approx([before, after], rel=0.02)  # more of the small numbers survive
        assert before > 0.25
        assert after == pytest.approx(0.25, rel=1e-4)
    for weight, other in zip(weights, scaled_weights, strict=True):
        assert torch.allclose(weight, other, atol=1e-4 if option == "sgd" else 9e-3)
