"""Objectives that add to the loss, in several processes: as in one, or refused in a line that names both options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.supervisor import supervise
from ablab.training.generation import load_run

pytestmark = pytest.mark.usefixtures("_costs_are_known")

AHEAD = ("objective=multi_token", "objective.depth=2", "objective.z_loss=0.01", "objective.weight=1.0")
SETTINGS = (
    *("task.batch_size=2", "trainer.accumulate_grad_batches=2", "optimizer=sgd"),
    *("trainer.max_steps=6", "trainer.val_check_interval=6"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("strategy=ddp", "task._target_=patchy.MaskedText"),  # some windows have many targets, others few
        ("strategy=tensor",),
    ],
    ids=lambda options: "+".join(options),
)
def test_two_processes_train_as_one(
    tiny_config: Callable[..., RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    strategy, *task = options
    one = run(tiny_config(*SETTINGS, *AHEAD, *task), tmp_path / "one")
    two = supervise(tiny_config(*SETTINGS, *AHEAD, *task, strategy), tmp_path / "two", lambda step, steps, shown: None)
    assert (one.status, two.status) == ("ok", "ok"), (one.reason, two.reason)
    first, second = (load_run(tmp_path / name, "last", trust=True)[0].state_dict() for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=2e-6)
    told = {name: value for name, value in one.mechanism.items() if name.startswith("objective/")}
    assert len(told) == 6
    assert {name: two.mechanism[name] for name in told} == pytest.approx(told, rel=1e-3)


@pytest.mark.parametrize("strategy", ["pipeline"])
@pytest.mark.parametrize("objective", [AHEAD[:1], ("objective=next_token", "objective.z_loss=0.01")])
def test_what_cannot_work_is_refused(
    tiny_config: Callable[..., RunConfig], strategy: str, objective: tuple[str, ...]
) -> None:
    words = rf"^strategy={strategy} does not work with {objective[0]}: "
    with pytest.raises(UserError, match=words):
        Preflight().check(tiny_config(f"strategy={strategy}", "model.n_layers=2", *objective))


@pytest.mark.parametrize("task", ["classification", "listops", "pixels", "spoken_arithmetic"])
def test_tasks_without_a_next_token_are_refused(tiny_config: Callable[..., RunConfig], task: str) -> None:
    with pytest.raises(UserError, match=rf"^objective=multi_token does not work with task={task}: it needs tokens"):
        Preflight().check(tiny_config("objective=multi_token", f"task={task}"))
