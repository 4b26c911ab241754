"""The same run, gone on with by another strategy or number of processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import interrupt
from test_resume import interrupted

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.supervisor import supervise
from ablab.training.begin import prepare_folder
from ablab.training.generation import load_run
from ablab.training.run import execute
from ablab.training.warm_start import check_steps_left

pytestmark = pytest.mark.usefixtures("_costs_are_known")

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]
STEPS = ("trainer.max_steps=12", "trainer.val_check_interval=4", "trainer.log_every_n_steps=2", "optimizer=sgd")


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in load_run(folder, "last")[0].parameters()])


@pytest.mark.slow
def test_one_process_goes_on_as_two(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """The final weights are those of one process that was left alone, but for rounding."""

    run(tiny_config(*STEPS), tmp_path / "whole")
    assert interrupted(tiny_config(*STEPS), tmp_path / "one", 6).status == "interrupted"
    two = tiny_config(*STEPS, "strategy=ddp", f"continue_from={tmp_path / 'one'}")
    record = supervise(two, tmp_path / "two", lambda step, steps, shown: None)
    assert record.status == "ok", record.reason
    assert record.notes == [f"went on from step 6 of {tmp_path / 'one'} (strategy=single, processes=1)"]
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "whole"), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_replicas_that_were_apart_say_that_others_cannot_take_over(tiny_config: TinyConfig, tmp_path: Path) -> None:

    local = ("strategy=local_sgd", "strategy.warmup_steps=0", "strategy.period=5")
    interrupt(tiny_config(*STEPS, *local), tmp_path / "two", 6)
    four = tiny_config(*STEPS, *local, "trainer.devices=4", f"continue_from={tmp_path / 'two'}")
    record = supervise(four, tmp_path / "four", lambda step, steps, shown: None)
    assert (record.status, record.cause) == ("failed", "refused")
    assert record.reason is not None
    assert "holds 2 replicas that were apart, and this run has 4 processes" in record.reason


def test_what_cannot_be_gone_on_from_is_refused_in_one_line(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    empty = tiny_config(*STEPS, f"continue_from={tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match=r"continue_from=.*nowhere: not the folder of a run"):
        Preflight().check(empty)
    run(tiny_config(*STEPS), tmp_path / "run")
    other = tiny_config(*STEPS, "model.d_ff=8", "strategy=ddp", f"continue_from={tmp_path / 'run'}")
    refusal = r"continue_from=.*: that run has another model\.d_ff; only components, strategy"
    with pytest.raises(UserError, match=refusal):
        Preflight().check(other)
    nothing = tiny_config(*STEPS, f"continue_from={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"that run has taken all of its 12 steps: nothing is left"):
        check_steps_left(nothing, tmp_path / "nothing left")
    finished = run(nothing, tmp_path / "nothing left")
    assert finished.reason is not None
    assert "that run has taken all of its 12 steps: nothing is left" in finished.reason
    for checkpoint in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        checkpoint.unlink()
    record = run(tiny_config(*STEPS, f"continue_from={tmp_path / 'run'}"), tmp_path / "again")
    assert (record.status, record.cause) == ("failed", "refused")
    assert record.reason is not None
    assert "no checkpoint to go on from" in record.reason


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 6])
def test_the_best_is_of_its_own_evaluations(tiny_config: TinyConfig, run: Run, tmp_path: Path, step: int) -> None:
    """Also where what it goes on from was the best so far: that is written at an evaluation, as after step 4."""
    interrupted(tiny_config(*STEPS), tmp_path / "one", step)
    record = run(tiny_config(*STEPS, f"continue_from={tmp_path / 'one'}"), tmp_path / "two")
    assert record.status == "ok", record.reason
    best, last = (load_run(tmp_path / "two", name)[0].state_dict() for name in ("best", "last"))
    assert record.last["val_loss"][-1] == min(record.last["val_loss"][-2:])
    for name, value in last.items():
        assert torch.equal(best[name], value), name


@pytest.mark.slow
def test_what_has_a_checkpoint_of_its_own_needs_the_other_no_more(tiny_config: TinyConfig, tmp_path: Path) -> None:
    assert interrupted(tiny_config(*STEPS), tmp_path / "one", 6).status == "interrupted"
    config = tiny_config(*STEPS, f"continue_from={tmp_path / 'one'}")
    assert (first := interrupted(config, tmp_path / "two", 10)).status == "interrupted", first.reason
    (tmp_path / "one").rename(tmp_path / "away")
    check_steps_left(config, tmp_path / "two")
    prepare_folder(config, tmp_path / "two")
    record = execute(config, tmp_path / "two")
    assert (record.status, record.notes, record.cost.steps) == ("ok", [], 12), record.reason
