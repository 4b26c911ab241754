"""How a run is spread changes how it is computed, not what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from ablab.config import RunConfig
from ablab.config.axes import AXES
from ablab.results.record import Record
from ablab.study.supervision.supervisor import supervise
from ablab.training.build import build_task
from ablab.training.generation import load_run
from ablab.training.strategies.data_parallel import DataParallel
from ablab.training.strategies.single import single


def test_single_runs_one_process() -> None:
    assert single() == "auto"
    with pytest.raises(ValueError, match=r"strategy=single runs one process, got strategy\.processes=2"):
        single(processes=2)


def test_ddp_needs_two_and_passes_its_settings_on() -> None:
    with pytest.raises(ValueError, match=r"needs at least 2 processes, got trainer\.devices=1"):
        DataParallel(processes=1)
    strategy = DataParallel(processes=2, bucket_cap_mb=3, gradient_as_bucket_view=False, static_graph=False)
    assert isinstance(strategy, DDPStrategy)
    settings = {"bucket_cap_mb": 3, "gradient_as_bucket_view": False, "static_graph": False}
    assert strategy._ddp_kwargs.items() >= settings.items()


@pytest.mark.slow
def test_two_processes_learn_what_one_does(
    tiny_config: Callable[..., RunConfig], run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    """Plain gradient descent, whose weights show a gradient that is not averaged. Whatever is counted is counted of
    both together."""
    settings = (
        *("trainer.max_steps=6", "trainer.val_check_interval=3", "trainer.accumulate_grad_batches=2"),
        *("optimizer=sgd", "activation=dynamic_sparse", "task.eval_tokens=null", "task.eval_batch_size=5"),
        *("feed_forward=moe", "feed_forward.bias_speed=0.05", "feed_forward.balance_weight=0.1"),
        "feed_forward.sequence_weight=0.05",
    )
    one = run(tiny_config(*settings), tmp_path / "one")
    two = supervise(tiny_config(*settings, "strategy=ddp"), tmp_path / "two", lambda step, steps, shown: None)
    assert (one.status, two.status) == ("ok", "ok"), (one.reason, two.reason)
    first, second = (load_run(tmp_path / name, "last")[0].state_dict() for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6)
    assert two.metrics == pytest.approx(one.metrics, rel=1e-5)
    for name, value in one.mechanism.items():
        assert two.mechanism[name] == pytest.approx(value, rel=1e-4), name
    for name in ("parameters", "flops_per_step", "flops_total", "steps", "tokens"):
        assert getattr(two.cost, name) == getattr(one.cost, name), name


@pytest.mark.slow
@pytest.mark.usefixtures("_costs_are_known")
@pytest.mark.parametrize(
    "options",
    [
        ("schedule=gradient_variance", "schedule.per_group=true", "schedule.warmup_share=0.25", "optimizer=sgd"),
        ("schedule=plateau", "schedule.patience=0", "schedule.threshold=10", "optimizer=muon"),
        ("schedule=linear", "feed_forward=moe", "optimizer=soap", "optimizer.cautious_update=true"),
        ("schedule=constant", "optimizer=schedule_free", "layer_fusion=adaptive", "model.n_layers=2"),
        ("schedule=cosine", "optimizer=lion", "layer_fusion=dense", "activation=topk"),
    ],
    ids=lambda options: "+".join(option.split("=")[1] for option in options if option.split("=")[0] in AXES),
)
def test_every_kind_of_state_agrees_between_processes(
    tiny_config: Callable[..., RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    """Optimizers that divide by the gradient's size make much of its last digits, hence the wider tolerance."""
    settings = ("trainer.max_steps=8", "trainer.val_check_interval=2", "trainer.accumulate_grad_batches=2", *options)
    one = run(tiny_config(*settings), tmp_path / "one")
    two = supervise(tiny_config(*settings, "strategy=ddp"), tmp_path / "two", lambda step, steps, shown: None)
    assert (one.status, two.status) == ("ok", "ok"), (one.reason, two.reason)
    assert one.responses is not None
    assert two.responses is not None
    assert two.responses["schedule"] == pytest.approx(one.responses["schedule"], rel=1e-4)
    assert two.metrics == pytest.approx(one.metrics, rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("_costs_are_known")
def test_every_target_counts_the_same_whichever_process_has_it(
    tiny_config: Callable[..., RunConfig], run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    """The mean over processes of each one's mean would weigh the targets of a process that has few of them more."""
    settings = (
        *("task._target_=patchy.PatchyText", "trainer.max_steps=6", "trainer.val_check_interval=6", "optimizer=sgd"),
        *("task.batch_size=2", "trainer.accumulate_grad_batches=2"),
    )
    one = run(tiny_config(*settings), tmp_path / "one")
    two = supervise(tiny_config(*settings, "strategy=ddp"), tmp_path / "two", lambda step, steps, shown: None)
    assert (one.status, two.status) == ("ok", "ok"), (one.reason, two.reason)
    first, second = (load_run(tmp_path / name, "last", trust=True)[0].state_dict() for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6)


def test_a_batch_without_targets_teaches_nothing(tiny_config: Callable[..., RunConfig]) -> None:
    task = build_task(tiny_config("task._target_=patchy.PatchyText"))
    logits = torch.randn(1, 5, task.vocab_size, requires_grad=True)
    loss = task.loss(logits, torch.full((1, 5), int(task.encode(" ")[0])))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
