"""Local updates, DiLoCo and delayed gradients against a loop over replicas in one process, written out plainly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.model.transformer import Transformer
from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.supervisor import supervise
from ablab.tasks.base import Task
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.generation import load_run
from ablab.training.strategies.base import Parallel
from ablab.training.strategies.compressed import PowerSgdDataParallel, TopKDataParallel
from ablab.training.strategies.delayed import DelayedDataParallel
from ablab.training.strategies.local import DiLoCo, LocalUpdates
from ablab.training.strategies.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("_costs_are_known")

TinyConfig = Callable[..., RunConfig]
LR, STEPS = 0.3, 8
PLAIN = (
    *(f"trainer.max_steps={STEPS}", "trainer.val_check_interval=3", "trainer.gradient_clip_val=null"),
    *("optimizer=sgd", f"optimizer.lr={LR}", "optimizer.momentum=0", "optimizer.nesterov=false"),
    *("optimizer.weight_decay=0", "schedule=constant", "schedule.warmup_share=0"),
)


class Replicas:
    """Models that are trained side by side, each on its half of every batch."""

    def __init__(self, config: RunConfig) -> None:
        task = build_task(config)
        self.task: Task = task
        self.models: list[Transformer] = [build_model(config, task).train() for _ in range(2)]
        self.batches = iter(task.train_dataloader())

    def gradients(self) -> list[list[Tensor]]:
        """Of each model, on its half of the next batch."""
        inputs, targets = next(self.batches)
        assert isinstance(inputs, Tensor)
        halves = zip(inputs.chunk(2), targets.chunk(2), self.models, strict=True)
        losses = [(self.task.loss(model(half), answers), model) for half, answers, model in halves]
        return [list(torch.autograd.grad(loss, list(model.parameters()))) for loss, model in losses]

    @torch.no_grad()
    def step(self, gradients: list[list[Tensor]]) -> None:
        for model, own in zip(self.models, gradients, strict=True):
            for weight, gradient in zip(model.parameters(), own, strict=True):
                weight.sub_(LR * gradient)

    @torch.no_grad()
    def mean(self) -> list[Tensor]:
        return [(a + b) / 2 for a, b in zip(*(model.parameters() for model in self.models), strict=True)]

    @torch.no_grad()
    def set(self, weights: list[Tensor]) -> None:
        for model in self.models:
            for weight, value in zip(model.parameters(), weights, strict=True):
                weight.copy_(value)


def mean_of(gradients: list[list[Tensor]]) -> list[Tensor]:
    return [(a + b) / 2 for a, b in zip(*gradients, strict=True)]


def trained(config: RunConfig, folder: Path) -> tuple[Record, list[Tensor]]:
    """The record of a run of two processes, and its final weights."""
    record = supervise(config, folder, lambda step, steps, shown: None)
    assert record.status == "ok", record.reason
    return record, list(load_run(folder, "last")[0].parameters())


def assert_equal(ours: list[Tensor], expected: list[Tensor], atol: float = 1e-6) -> None:
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.slow
def test_local_updates_are_averaged_every_so_often(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """Two steps of warm-up, then meetings after steps 5 and 8; evaluations after 3 and 6 do not take part."""
    config = tiny_config(*PLAIN, "strategy=local_sgd", "strategy.period=3", "strategy.warmup_steps=2")
    _, weights = trained(config, tmp_path / "run")
    replicas = Replicas(config)
    for step in range(STEPS):
        gradients = replicas.gradients()
        replicas.step([mean_of(gradients)] * 2 if step < 2 else gradients)
        if step + 1 in (5, 8):
            replicas.set(replicas.mean())
    assert_equal(weights, replicas.mean())


@pytest.mark.slow
def test_what_is_evaluated_between_meetings_is_the_mean(tiny_config: TinyConfig, tmp_path: Path) -> None:
    config = tiny_config(*PLAIN, "strategy=local_sgd", "strategy.period=100", "strategy.warmup_steps=0")
    _, weights = trained(config, tmp_path / "run")
    replicas = Replicas(config)
    for _ in range(STEPS):
        replicas.step(replicas.gradients())
    assert not torch.equal(*(model.head.weight for model in replicas.models))
    assert_equal(weights, replicas.mean())


@pytest.mark.slow
def test_meeting_at_every_step_is_data_parallel(tiny_config: TinyConfig, tmp_path: Path) -> None:
    _, ddp = trained(tiny_config(*PLAIN, "strategy=ddp"), tmp_path / "ddp")
    every = ("strategy.period=1", "strategy.warmup_steps=0")
    _, local = trained(tiny_config(*PLAIN, "strategy=local_sgd", *every), tmp_path / "local")
    assert_equal(local, ddp)
    outer = ("strategy.outer_lr=1", "strategy.outer_momentum=0")
    _, diloco = trained(tiny_config(*PLAIN, "strategy=diloco", *every, *outer), tmp_path / "diloco")
    assert_equal(diloco, ddp)


@pytest.mark.slow
def test_diloco_moves_by_nesterov_momentum(tiny_config: TinyConfig, tmp_path: Path) -> None:
    settings = ("strategy=diloco", "strategy.period=2", "strategy.outer_lr=0.6", "strategy.outer_momentum=0.8")
    config = tiny_config(*PLAIN, *settings)
    _, weights = trained(config, tmp_path / "run")
    replicas = Replicas(config)
    anchor = replicas.mean()
    momentum = [torch.zeros_like(weight) for weight in anchor]
    for step in range(STEPS):
        replicas.step(replicas.gradients())
        if step % 2:
            way = [old - new for old, new in zip(anchor, replicas.mean(), strict=True)]
            momentum = [0.8 * m + d for m, d in zip(momentum, way, strict=True)]
            anchor = [a - 0.6 * (d + 0.8 * m) for a, d, m in zip(anchor, way, momentum, strict=True)]
            replicas.set(anchor)
    assert_equal(weights, anchor)


@pytest.mark.slow
def test_a_delayed_gradient_is_that_of_the_step_before(tiny_config: TinyConfig, tmp_path: Path) -> None:
    config = tiny_config(*PLAIN, "strategy=async_ddp")
    _, weights = trained(config, tmp_path / "run")
    replicas = Replicas(config)
    earlier: list[Tensor] | None = None
    for _ in range(STEPS):
        gradient = mean_of(replicas.gradients())
        if earlier is not None:
            replicas.step([earlier] * 2)
        earlier = gradient
    assert_equal(weights, replicas.mean())


def test_processes_that_never_meet_are_told_of() -> None:
    strategy = LocalUpdates(processes=2, period=5, warmup_steps=3)
    assert strategy.notes(8) == []
    assert strategy.notes(7) == ["processes never met: the first meeting is after step 8 of 7"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LocalUpdates(processes=2, period=0), "period=0 must be at least 1"),
        (lambda: LocalUpdates(processes=2, period=1, warmup_steps=-1), "warmup_steps=-1 must be at least 0"),
        (lambda: LocalUpdates(processes=1, period=1), "needs at least 2 processes, got trainer.devices=1"),
        (lambda: DiLoCo(processes=2, period=1, outer_lr=0, outer_momentum=0), "outer_lr=0 must be above 0"),
        (lambda: DiLoCo(processes=2, period=1, outer_lr=1, outer_momentum=1), "outer_momentum=1 must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("strategy=local_sgd", "schedule=gradient_variance"), "strategy=local_sgd does not work with schedule="),
        (("strategy=ddp", "+strategy.rank=4"), "strategy.rank: no such setting of strategy"),
    ],
)
def test_what_cannot_work_together_is_refused(tiny_config: TinyConfig, settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Preflight().check(tiny_config(*settings))


@pytest.mark.parametrize(
    ("option", "strategy"),
    [("async_ddp", DelayedDataParallel), ("ddp_powersgd", PowerSgdDataParallel), ("ddp_topk", TopKDataParallel)],
)
def test_scaled_gradients_cannot_be_kept_for_a_later_step(
    tiny_config: TinyConfig, option: str, strategy: type[Parallel]
) -> None:
    """On a CPU Lightning refuses float16 before we do."""
    config = tiny_config(f"strategy={option}", "trainer.precision=16-mixed")
    with pytest.raises(UserError, match=r"precision=16-mixed scales gradients by a factor .* use .*=bf16-mixed"):
        Preflight._check_gradients(config, strategy(processes=2), None)  # type: ignore[arg-type, call-arg]


@pytest.mark.parametrize(("strategy", "sends"), [(LocalUpdates, "_show_mean"), (Pipeline, "_share_weights")])
def test_weights_are_on_their_device_before_they_are_sent(
    strategy: type[DDPStrategy], sends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL sends from GPUs alone, and training leaves the weights on the CPU."""
    called: list[str] = []
    for owner, name in ((strategy, "model_to_device"), (strategy, sends), (DDPStrategy, "setup")):
        monkeypatch.setattr(owner, name, lambda *_, name=name: called.append(name))
    settings: dict[str, Any] = {"period": 1} if strategy is LocalUpdates else {}
    made = strategy(processes=2, **settings)
    made.setup(cast(Trainer, SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.TESTING))))
    assert called == ["model_to_device", sends, "setup"]
