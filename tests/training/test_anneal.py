"""Shorter runs on the way of a longer one: to the last bit what they are by themselves, whenever the run is killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import ANNEAL_FOLDER, CHECKPOINT_FOLDER, METRICS_FILE
from ablab.study.planning.preflight import Preflight
from ablab.training import anneal as annealing
from ablab.training import trainer as trainers
from ablab.training.callbacks import Curves
from ablab.training.schedules.decay import warmup_stable_decay

TinyConfig = Callable[..., RunConfig]
STABLE = ("schedule=warmup_stable_decay", "schedule.warmup_steps=2", "schedule.decay_share=0.5", "trainer.max_steps=12")
SHARES = "schedule.anneal_at=[0.5,0.66]"  # 6 and 8 steps, which decay from 3 and 4 on


@pytest.mark.parametrize(
    "words",
    [
        ("trainer.accumulate_grad_batches=2", "model.dropout=0.1", "feed_forward=moe"),
        ("optimizer=schedule_free", "trainer.gradient_clip_val=0.1"),
        ("optimizer=muon", "callbacks=[ema,gradient_norms,learning_rate_monitor]", "trainer.val_check_interval=5"),
        ("optimizer=soap", "attention=lsh", "trainer.precision=bf16-mixed"),
    ],
)
def test_a_shorter_run_is_that_run(words: tuple[str, ...], tiny_config: TinyConfig, tmp_path: Path, run: Any) -> None:
    longer = run(tiny_config(*STABLE, SHARES, *words), tmp_path / "longer")
    assert longer.status == "ok", longer.traceback
    assert [each.step for each in longer.annealed] == [6, 8]
    for each in longer.annealed:
        shorter = run(tiny_config(*STABLE, *words, f"trainer.max_steps={each.step}"), tmp_path / f"{each.step}")
        assert each.metrics == shorter.metrics
        assert (each.tokens, each.flops) == (shorter.cost.tokens, shorter.cost.flops_total)
    assert not (tmp_path / "longer" / CHECKPOINT_FOLDER / ANNEAL_FOLDER).exists()


def test_the_longer_run_is_as_it_is_without_them(tiny_config: TinyConfig, tmp_path: Path, run: Any) -> None:
    words = (*STABLE, "model.dropout=0.1", "attention=windowed", "callbacks=ema")
    longer, alone = (
        run(tiny_config(*words, *more), tmp_path / name) for name, more in {"longer": [SHARES], "alone": []}.items()
    )
    for name in ("metrics", "mechanism", "last", "responses", "evaluated", "parameter_groups"):
        assert getattr(longer, name) == getattr(alone, name), name
    assert (tmp_path / "longer" / METRICS_FILE).read_text() == (tmp_path / "alone" / METRICS_FILE).read_text()
    assert (longer.cost.steps, longer.cost.tokens) == (alone.cost.steps, alone.cost.tokens)
    assert longer.cost.annealing_steps == 3 + 4
    assert longer.cost.annealing_flops == 7 * longer.cost.flops_per_step
    assert 0 < longer.cost.annealing_time_s < longer.cost.wall_time_s
    assert (alone.annealed, alone.cost.annealing_steps) == ((), None)


class Ends(Curves):
    """Ends the process, as it were, at a step of a run of so many steps; or asks it to stop."""

    def __init__(self, every: int, steps: int, step: int, asked: bool) -> None:
        super().__init__(every)
        self._where, self._asked = (steps, step), asked

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if (trainer.max_steps, trainer.global_step) == self._where:
            if not self._asked:
                raise RuntimeError("killed")
            os.kill(os.getpid(), signal.SIGINT)


def killed(run: Any, config: RunConfig, folder: Path, steps: int, step: int, asked: bool = False) -> Record:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "Curves", lambda every: Ends(every, steps, step, asked))
        record: Record = run(config, folder)
    assert record.status == ("interrupted" if asked else "failed")
    return record


# (steps of the run that is at work then, its step, asked or killed)
MOMENTS = [(12, 3, False), (12, 7, False), (12, 12, False), (6, 4, False), (8, 7, False), (8, 5, True)]


def test_it_goes_on_whenever_it_was_ended(tiny_config: TinyConfig, tmp_path: Path, run: Any) -> None:
    config = tiny_config(*STABLE, SHARES, "model.dropout=0.1")
    whole = run(config, tmp_path / "whole")
    for moment in MOMENTS:
        folder = tmp_path / "-".join(map(str, moment))
        killed(run, config, folder, *moment)
        again = run(config, folder)
        assert (again.status, again.annealed, again.metrics) == ("ok", whole.annealed, whole.metrics), moment
        assert not (folder / CHECKPOINT_FOLDER / ANNEAL_FOLDER).exists()


def test_one_that_was_ended_behind_its_last_step_is_tested_on_its_averaged_weights(
    tiny_config: TinyConfig, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*STABLE, SHARES, "callbacks=ema", "callbacks.ema.decay=0.9", "task.test_fraction=0.1")
    config = tiny_config(*words, "trainer.val_check_interval=2")
    whole = run(config, tmp_path / "whole")

    def ended(*_: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(annealing, "evaluate", ended)
        assert run(config, tmp_path / "run").status == "failed"
    assert run(config, tmp_path / "run").annealed == whole.annealed


def test_one_that_was_begun_goes_on_from_where_it_was(tiny_config: TinyConfig, tmp_path: Path, run: Any) -> None:
    """And what is done is not done again; where its checkpoints are lost, it is made from the start."""
    config = tiny_config(*STABLE, SHARES)
    whole = run(config, tmp_path / "whole")
    folder = tmp_path / "run"
    killed(run, config, folder, 8, 5, asked=True)
    annealing = folder / CHECKPOINT_FOLDER / ANNEAL_FOLDER
    assert [path.name for path in sorted(annealing.iterdir())] == ["steps=6.json", "steps=8"]
    state = torch.load(annealing / "steps=8" / CHECKPOINT_FOLDER / "last.ckpt", weights_only=True)
    assert state["global_step"] == 5
    shutil.rmtree(annealing / "steps=8")
    assert run(config, folder).annealed == whole.annealed


def test_one_that_diverges_is_told_of_and_no_failure(tiny_config: TinyConfig, tmp_path: Path, run: Any) -> None:
    class Diverges(Curves):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            module.train_loss = module.train_loss * (float("nan") if trainer.max_steps == 6 else 1.0)
            super().on_train_batch_end(trainer, module, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "Curves", Diverges)
        record = run(tiny_config(*STABLE, SHARES), tmp_path)
    assert (record.status, [each.step for each in record.annealed]) == ("ok", [8])
    assert "annealed after 6 steps: train_loss became nan at step 4" in record.notes
    assert record.cost.annealing_steps == 1 + 4
    assert record.cost.annealing_flops == 5 * record.cost.flops_per_step


def test_a_run_that_is_stopped_before_has_none(tiny_config: TinyConfig, tmp_path: Path, run: Any) -> None:
    early = ("callbacks=early_stopping", "callbacks.early_stopping.min_delta=9", "callbacks.early_stopping.patience=1")
    record = run(tiny_config(*STABLE, "schedule.anneal_at=[0.9]", *early), tmp_path)
    assert (record.status, record.annealed) == ("ok", ())
    assert any("has no checkpoint of where it would decay" in note for note in record.notes)
    assert (record.cost.annealing_steps, record.cost.annealing_flops) == (0, 0)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([0.05], "anneal_at=0.05: a run of 5 steps decays from step 4 on, before it has warmed up (10 steps)"),
        ([1.0], "anneal_at=1: must be a share of the run, more than 0 and less than 1"),
        ([0.5, 0.502], "anneal_at: two shares of 100 steps are 50 steps"),
    ],
)
def test_shares_that_make_no_run_are_refused(shares: list[float], said: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=re.escape(said)):
        warmup_stable_decay(optimizer, total_steps=100, warmup_share=0.1, anneal_at=shares)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"warmup_steps": 12}, "schedule: warmup_steps=12: must be at least 0 and less than the 12 steps of the run"),
        ({"anneal_at": [0.1]}, "schedule: anneal_at=0.1: a run of 1 steps decays"),
        ({"total_steps": 100, "anneal_at": [0.5]}, "schedule.anneal_at: a run of 50 steps is no shorter one"),
    ],
)
def test_what_cannot_be_made_is_found_before_the_first_step(
    schedule: dict[str, Any], said: str, tiny_config: TinyConfig
) -> None:
    config = tiny_config(*STABLE)
    options = config.options | {"schedule": config.options["schedule"] | schedule}
    with pytest.raises(UserError, match=re.escape(said)):
        Preflight().check(replace(config, options=options))
