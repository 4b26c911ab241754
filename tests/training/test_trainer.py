"""What a run's Trainer is given, what it refuses, and what it leaves to others."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ablab.config import AXES, RunConfig, fingerprint
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight, check_options
from ablab.training.module import TrainingModule
from ablab.training.trainer import OWNED

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]


@pytest.mark.parametrize("moment", ["training_step", "validation_step", "test_step"])
def test_lightning_does_not_handle_sigterm(
    moment: str,
    tiny_config: TinyConfig,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its handler sends to the other processes from within, each at a moment of its own."""
    seen: list[Any] = []
    original = getattr(TrainingModule, moment)

    def watched(self: TrainingModule, *args: Any) -> Any:
        seen.append(signal.getsignal(signal.SIGTERM))
        return original(self, *args)

    monkeypatch.setattr(TrainingModule, moment, watched)
    before = signal.signal(signal.SIGTERM, own)
    try:
        assert run(tiny_config("task.test_fraction=0.1"), tmp_path).status == "ok"
        assert seen
        assert set(seen) == {own}
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def own(*_: Any) -> None:
    """A handler of those who started the process."""


@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule will be overridden")  # of few steps
@pytest.mark.parametrize("profiler", ["simple", "advanced", "pytorch"])
def test_a_profile_is_in_the_folder_and_in_tensorboard(
    profiler: str, tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    config = tiny_config(f"trainer.profiler={profiler}", "trainer.max_steps=8", "logger=tensorboard")
    assert fingerprint(config) == fingerprint(tiny_config("trainer.max_steps=8"))
    assert run(config, tmp_path).status == "ok"
    assert not torch.autograd._profiler_enabled()
    table = (tmp_path / "profile" / "fit-profile.txt").read_text(encoding="utf-8")
    assert "FIT Profiler Report" in table
    assert "training_step" in table or profiler == "pytorch"
    assert bool(list((tmp_path / "profile").glob("*.pt.trace.json"))) == (profiler == "pytorch")
    events = EventAccumulator(str(tmp_path)).Reload()
    shown = events.Tensors("profile/fit-profile/text_summary")[0].tensor_proto.string_val[0].decode()
    assert [line.strip() for line in shown.splitlines()] == [line.strip() for line in table.splitlines()]


@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule will be overridden")  # of few steps
@pytest.mark.filterwarnings(
    "ignore:Warning. Profiler clears events at the end of each cycle"
)  # PyTorch, of every cycle
@pytest.mark.parametrize("batches", [1, 3, 6])  # of an evaluation: too few for PyTorch's schedule of 5, or enough
def test_steps_and_evaluations_of_any_length_are_profiled(
    batches: int, tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    lengths = f"trainer.limit_val_batches={batches}", "trainer.max_steps=6", "trainer.val_check_interval=6"
    record = run(tiny_config("trainer.profiler=pytorch", "task.eval_batch_size=1", *lengths), tmp_path)
    assert record.status == "ok", record.reason
    assert not torch.autograd._profiler_enabled()


@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule will be overridden")  # of few steps
def test_no_profiler_goes_on_after_a_run_that_failed(
    faulty: Callable[..., RunConfig], run: Run, tmp_path: Path
) -> None:
    assert run(faulty("Raises", "trainer.profiler=pytorch"), tmp_path).status == "failed"
    assert not torch.autograd._profiler_enabled()


def test_lightning_s_progress_bar_can_be_had(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shown in (False, True):
        assert run(tiny_config(f"trainer.enable_progress_bar={shown}"), tmp_path / str(shown)).status == "ok"
        said = "".join(capsys.readouterr())
        assert ("train_loss" in said) == shown


def test_fewer_validation_batches_are_evaluated_when_asked(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    settings = ("task.eval_batch_size=2", "trainer.limit_val_batches")
    records = [run(tiny_config(settings[0], f"{settings[1]}={n}"), tmp_path / str(n)) for n in (3, 0.5, 1.0)]
    assert [record.evaluated["val"] for record in records] == [6, 4, 8]
    assert len({fingerprint(RunConfig.from_dict(record.config)) for record in records}) == 3


def test_a_run_that_is_out_of_time_is_ok_with_the_steps_it_took(
    tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    """It ends behind its first step, and is evaluated there."""
    record = run(tiny_config("trainer.max_steps=50", "trainer.max_time={microseconds:1}"), tmp_path)
    assert (record.status, record.reason, record.cost.steps) == ("ok", None, 1)
    assert record.metrics["val_loss"] > 0


def test_arguments_of_the_trainer_are_the_config_s_or_refused(tiny_config: TinyConfig) -> None:
    """Every one that Lightning has today; those that neither the config nor the program gives pass as they are."""
    parameters = inspect.signature(Trainer.__init__).parameters
    every = set(parameters) - {"self"}
    assert set(OWNED) <= every
    for key in sorted(OWNED):
        with pytest.raises(UserError, match=rf"^trainer\.{key}: \w+"):
            check_options(AXES["trainer"], {"trainer": {"_target_": "lightning.Trainer", key: None}})
    others = {key: parameters[key].default for key in every - set(OWNED)}
    check_options(AXES["trainer"], {"trainer": {"_target_": "lightning.Trainer", **others}})


@pytest.mark.parametrize(
    "override",
    [
        *("+trainer.detect_anomaly=true", "+trainer.gradient_clip_algorithm=value", "+trainer.inference_mode=false"),
        *("+trainer.benchmark=true", "+trainer.enable_model_summary=true", "+trainer.limit_test_batches=1"),
        *("+trainer.min_steps=2", "+trainer.enable_autolog_hparams=false", "+trainer.sync_batchnorm=true"),
    ],
)
def test_other_arguments_of_the_trainer_are_accepted(
    override: str, tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    config = tiny_config(override, "trainer.max_steps=2", "task.test_fraction=0.1")
    Preflight().check(config)
    assert run(config, tmp_path).status == "ok"
