"""What a run costs, counted against the transformer's own arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import torch
from lightning import LightningModule
from torch import nn

from ablab.config import RunConfig
from ablab.results.record import FUNCTION, Cost, Record
from ablab.tasks.base import Task
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.cost import CostMeter, count_flops, count_parameters, flops_of
from ablab.training.peak_memory import forget_peak_memory, peak_memory

TinyConfig = Callable[..., RunConfig]


def counted(config: RunConfig) -> tuple[int, list[str], Task]:
    task = build_task(config)
    return *count_flops(build_model(config, task, device="meta"), task.loss, task.example()), task


@pytest.mark.parametrize(("d", "layers", "T"), [(32, 1, 64), (48, 3, 128), (64, 2, 512)])
def test_flops_are_those_of_the_closed_form(d: int, layers: int, T: int, tiny_config: TinyConfig) -> None:
    """A product of (m, k) and (k, n) takes 2 m k n; the backward pass has two for each of the forward pass."""
    config = tiny_config(
        f"model.d_model={d}",
        "model.n_heads=4",
        f"model.n_layers={layers}",
        f"task.seq_len={T}",
        "task.eval_tokens=null",
    )
    flops, _, task = counted(config)
    projections = 4 * 2 * T * d * d
    feed_forward = 2 * 2 * T * d * 4 * d
    attention = 2 * 2 * T * T * d  # scores, and weights times values; the causal half that is masked is counted too
    head = 2 * T * d * task.vocab_size
    forward = layers * (projections + feed_forward + attention) + head
    assert flops == pytest.approx(3 * forward, rel=0.02)


def test_a_cheaper_attention_counts_less(tiny_config: TinyConfig) -> None:
    long = ("task.seq_len=512", "task.eval_tokens=512")
    full, windowed = (counted(tiny_config(*long, f"attention={name}"))[0] for name in ("full", "windowed"))
    assert windowed < full


@pytest.mark.parametrize("attention", [("dsa",), ("selected", "attention.scorer=indexer")], ids=["dsa", "selected"])
def test_what_comes_after_a_warm_up_is_counted(attention: tuple[str, ...], tiny_config: TinyConfig) -> None:
    """In its first steps the attention sees everything, at the cost of all pairs."""

    def of(warmup_steps: int) -> int | None:
        own = (f"attention={attention[0]}", *attention[1:], f"attention.warmup_steps={warmup_steps}")
        config = tiny_config("task.seq_len=1024", "task.eval_tokens=1024", *own)
        task = build_task(config)
        shapes = build_model(config, task, device="meta")
        return flops_of(shapes, task, lambda: build_model(config, task))[0]

    without = of(0)
    assert without is not None
    assert of(50) == without


def test_what_knows_the_steps_of_its_run_alone_is_counted_at_the_first(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    task = build_task(config)
    shapes = build_model(config, task, device="meta")
    monkeypatch.setattr(shapes, "resample", lambda step: [0.1, 0.2, 0.3][step])
    assert flops_of(shapes, task, lambda: build_model(config, task)) == counted(config)[:2]


def test_scores_over_depth_are_counted_as_what_they_weigh(tiny_config: TinyConfig) -> None:
    """Each read is two products: scores, whose gradient of the query is one more, and a weighted sum, which has two."""
    d, T = 32, 64
    shape = (f"model.d_model={d}", "model.n_layers=2", f"task.seq_len={T}", "task.eval_tokens=null")
    plain, _, _ = counted(tiny_config(*shape))
    deep, uncounted, _ = counted(tiny_config(*shape, "residual=attention"))
    entries = (2, 3, 4, 5)  # in front of each part but the first, and of the head
    assert deep - plain == sum((2 + 3) * 2 * T * k * d for k in entries)
    assert "mv" not in uncounted


def test_what_has_no_formula_is_named(tiny_config: TinyConfig) -> None:
    _, plain, _ = counted(tiny_config())
    _, sorting, _ = counted(tiny_config("attention=topk", "attention.keys=4"))
    assert "native_layer_norm" in plain
    assert "topk" in sorting
    assert "topk" not in plain
    assert not {"gather", "scatter", "embedding"} & {*plain, *sorting}  # which only pick
    assert not {"mm", "addmm", "bmm", "add", "mul", "view", "transpose", "empty_like"} & set(plain)  # counted or free


def test_counting_computes_nothing(tiny_config: TinyConfig) -> None:
    """With values, the model would take 12 GB, and so would its gradients."""
    config = tiny_config("model.d_model=8192", "model.n_layers=4", "task.seq_len=2048", "task.eval_tokens=null")
    task = build_task(config)
    model = build_model(config, task, device="meta")
    assert all(each.is_meta for each in (*model.parameters(), *model.buffers()))
    before = peak_memory()[0]
    flops, _ = count_flops(model, task.loss, task.example())
    assert flops > 6 * count_parameters(model) * task.seq_len * 0.9
    assert peak_memory()[0] - before < 2**28


def test_parameters_count_once_and_only_if_they_train(tiny_config: TinyConfig) -> None:
    tied, untied = tiny_config(), tiny_config("model.tie_embeddings=false")
    task = build_task(tied)
    counts = [count_parameters(build_model(config, task)) for config in (tied, untied)]
    assert counts[1] - counts[0] == 256 * 16
    layer = nn.Linear(3, 5)
    layer.bias.requires_grad_(False)
    assert count_parameters(layer) == 15


def test_peak_memory_sees_what_is_used() -> None:
    before, method = peak_memory()
    held = torch.ones(before // 4 + 2**20)  # more than this process has ever had, written to
    assert peak_memory()[0] > max(before, held.nbytes) > 0
    assert method


@pytest.mark.skipif(not forget_peak_memory(), reason="the system remembers the peak of a process for good")
def test_peak_memory_is_that_of_the_training(
    tiny_config: TinyConfig, run: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that of what is asked of the model before the first step."""
    before, asked = [], torch.ones(2**27).nbytes

    def ask(*args: object) -> dict[str, list[float]]:
        before.append(psutil.Process().memory_info().rss)
        torch.ones(2**27)
        return {name: [] for name in FUNCTION}

    monkeypatch.setattr("ablab.training.run.function_responses", ask)
    cost = run(tiny_config("trainer.max_steps=2", "trainer.val_check_interval=2"), tmp_path).cost
    assert cost.peak_memory_bytes is not None
    assert 0.9 * before[0] < cost.peak_memory_bytes < before[0] + 0.8 * asked


def fake_trainer() -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(global_step=0, accumulate_grad_batches=2, strategy=strategy)


def train(meter: CostMeter, trainer: Any, steps: int, tick: Callable[[float], None], seconds: float = 1.0) -> None:
    """Steps of two batches each."""
    for _ in range(steps):
        for batch in range(2):
            meter.on_train_batch_start(trainer, cast(LightningModule, None), None, 2 * trainer.global_step + batch)
            tick(seconds / 2)
        trainer.global_step += 1


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


def test_the_clock_stands_still_outside_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 steps of 1 s, the first ten half a second slower; evaluations and a checkpoint of 100 s between."""
    clock, module = Clock(), cast(LightningModule, None)
    monkeypatch.setattr("time.perf_counter", clock)
    monkeypatch.setattr("time.process_time", lambda: 0.75 * clock.now)  # a machine that others use, too
    meter, trainer = CostMeter(tokens_per_step=32, untimed_steps=10), fake_trainer()
    for seconds in (1.5, 1.0, 1.0, 1.0):
        train(meter, trainer, 10, clock.tick, seconds)
        if trainer.global_step == 20:
            meter.on_save_checkpoint(trainer, module, {})
            clock.tick(100)
        if trainer.global_step in (10, 30):
            meter.on_validation_start(trainer, module)
            clock.tick(100)
    meter.on_train_end(trainer, module)
    cost = meter.measured(Cost(flops_per_step=7), trainer.global_step)
    assert cost.train_time_s == 40.0  # the first steps counted as long as the others are
    assert cost.processor_time_s == 30.0
    assert cost.tokens_per_second == 32.0
    assert cost.wall_time_s == 345.0
    assert (cost.steps, cost.tokens, cost.flops_total) == (40, 1280, 280)


def test_a_run_that_goes_on_costs_what_it_cost_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts of 20 steps of 1 s, the first ten of each slower, and an evaluation of 4 s."""
    clock, module, state = Clock(), cast(LightningModule, None), None
    monkeypatch.setattr("time.perf_counter", clock)
    monkeypatch.setattr("time.process_time", lambda: 0.5 * clock.now)
    trainer = fake_trainer()
    for _ in range(2):
        meter = CostMeter(tokens_per_step=32, untimed_steps=10)
        if state is not None:
            meter.load_state_dict({**state, "peak_memory_bytes": 2**50})
        train(meter, trainer, 10, clock.tick, 1.5)
        train(meter, trainer, 10, clock.tick)
        meter.on_validation_start(trainer, module)
        clock.tick(4)
        meter.on_validation_end(trainer, module)
        state = meter.state_dict()
        clock.tick(1000)  # between the attempts
    clock.tick(-1000)
    cost = meter.measured(Cost(), trainer.global_step)
    assert (cost.wall_time_s, cost.train_time_s, cost.evaluation_time_s) == (58.0, 40.0, 8.0)
    assert cost.processor_time_s == 20.0
    assert cost.peak_memory_bytes == 2**50


@pytest.mark.parametrize(
    ("sharers", "wall_time_s"), [((4, 1), 5.0 + 20.0), ((1, 4), 20.0 + 5.0), ((4, 4), 5.0 + 5.0), ((4, 2), 5.0 + 10.0)]
)
def test_a_run_that_enters_or_leaves_a_stack_has_its_own_times(
    sharers: tuple[int, int], wall_time_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 s in one attempt and in the other; a step takes 2 s, in a stack and alone."""
    clock, module = Clock(), cast(LightningModule, None)
    state: dict[str, Any] = {}
    monkeypatch.setattr("time.perf_counter", clock)
    monkeypatch.setattr("time.process_time", clock)
    trainer = fake_trainer()
    for number in sharers:
        meter = CostMeter(tokens_per_step=32, untimed_steps=0, sharers=number)
        if state:
            meter.load_state_dict({**state, "peak_memory_bytes": 2**50})
        train(meter, trainer, 10, clock.tick, 2.0)
        meter.on_train_end(trainer, module)
        state = meter.state_dict()
    cost = meter.measured(Cost(), trainer.global_step)
    assert cost.wall_time_s == wall_time_s
    assert state["timed_steps"] == 10 * sharers.count(1)
    assert (cost.peak_memory_bytes == 2**50) == (sharers[0] == sharers[1])


def test_a_run_of_untimed_steps_has_no_speed() -> None:
    meter, trainer = CostMeter(tokens_per_step=32, untimed_steps=5), fake_trainer()
    train(meter, trainer, 5, lambda seconds: None)
    meter.on_train_end(trainer, cast(LightningModule, None))
    cost = meter.measured(Cost(), 5)
    assert cost.tokens_per_second is None
    assert cost.train_time_s is None
    assert cost.flops_total is None


def test_another_version_of_torch_says_that_it_does_not_know(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    flops, named, _ = counted(tiny_config())
    monkeypatch.setitem(sys.modules, "torch.utils._python_dispatch", None)  # cannot be imported
    assert counted(tiny_config())[:2] == (flops, ["not known with this version of torch"])
    assert len(named) > 1
