"""What watches a run, on a trainer that does as it is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ablab.config import RunConfig
from ablab.errors import Diverged
from ablab.model.attention.pictures import picture
from ablab.results.record import Metric, Record
from ablab.training import callbacks, pictures
from ablab.training.begin import prepare_folder
from ablab.training.callbacks import Curves, Mechanisms, ReportProgress, seed_everything_else
from ablab.training.loggers import RunInfo
from ablab.training.loggers.tensorboard import EventsLogger
from ablab.training.module import TrainingModule
from ablab.training.run import execute


class Rows:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))


def fake(step: int = 0, **evaluated: float) -> Any:
    return SimpleNamespace(
        global_step=step,
        max_steps=100,
        accumulate_grad_batches=1,
        loggers=[Rows()],
        strategy=SimpleNamespace(reduce=lambda value, reduce_op: value),
        callback_metrics={name: torch.tensor(value) for name, value in evaluated.items()},
    )


@pytest.fixture
def module() -> TrainingModule:
    module = TrainingModule.__new__(TrainingModule)
    torch.nn.Module.__init__(module)
    module.learning_rates = [0.1, 0.2, 0.3]
    module.log = lambda *args, **settings: None  # type: ignore[method-assign]
    return module


def test_curves_are_logged_every_few_steps_with_the_rate_of_that_step(module: TrainingModule) -> None:
    curves, rows = Curves(log_every_n_steps=3), []
    for step in range(1, 8):
        trainer, module.train_loss = fake(step), torch.tensor(step / 2)
        curves.on_train_batch_end(trainer, module, {}, None, step - 1)
        rows += trainer.loggers[0].rows
    assert rows == [
        (3, {"train_loss": 1.5, "learning_rate": 0.3}),
        (6, {"train_loss": 3.0, "learning_rate": 0.3}),
    ]


def test_a_step_of_several_batches_is_logged_once(module: TrainingModule) -> None:
    curves, rows = Curves(log_every_n_steps=2), []
    for batch in range(9):
        trainer = fake((batch + 1) // 3)  # the optimizer steps after the third, the sixth, the ninth
        trainer.accumulate_grad_batches = 3
        module.train_loss = torch.tensor(float(batch))
        curves.on_train_batch_end(trainer, module, {}, None, batch)
        rows += trainer.loggers[0].rows
    assert [(step, row["train_loss"]) for step, row in rows] == [(2, 5.0)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_is_logged_and_ends_the_run(value: float, module: TrainingModule) -> None:
    trainer, module.train_loss = fake(6), torch.tensor(value)
    with pytest.raises(Diverged, match=rf"train_loss became {value} at step 6"):
        Curves(3).on_train_batch_end(trainer, module, {}, None, 5)
    assert [step for step, _ in trainer.loggers[0].rows] == [6]


def test_an_evaluation_that_is_no_number_ends_the_run(module: TrainingModule) -> None:
    Curves(3).on_validation_end(fake(4, val_loss=2.0, val_perplexity=float("inf")), module)
    with pytest.raises(Diverged, match="val_loss became nan at step 4") as raised:
        Curves(3).on_validation_end(fake(4, val_loss=float("nan")), module)
    assert (raised.value.metric, raised.value.step) == ("val_loss", 4)


def test_progress_is_told_a_few_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = 1000.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    primary = Metric(name="val_loss", split="val", direction="min")
    callback = ReportProgress(lambda *what: told.append(what), primary)
    for step in range(1, 11):
        now += 0.1
        callback.on_train_batch_end(fake(step, **({"val_loss": 2.34567} if step > 5 else {})))
    assert told == [(1, 100, ""), (4, 100, ""), (7, 100, "val_loss 2.3457"), (10, 100, "val_loss 2.3457")]


def test_a_run_tells_its_progress(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    config = tiny_config()
    prepare_folder(config, tmp_path)
    execute(config, tmp_path, progress=lambda *what: told.append(what))
    assert told
    assert told[0] == (1, 4, "")


def test_mechanisms_are_those_of_the_model_and_the_schedule(
    tiny_config: Callable[..., RunConfig], run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    config = tiny_config("attention=windowed", "attention.window=4", "schedule=gradient_variance", "optimizer.lr=0.01")
    values = run(config, tmp_path).mechanism
    # 32 tokens: the first sees one key, the second two, the third three, and all others four.
    assert values["attention/keys_visited"] == pytest.approx((1 + 2 + 3 + 29 * 4) / 32)
    assert 0 < values["attention/mass_captured"] < 1
    assert values["schedule/gradient_variance"] > 0
    assert 0 < values["schedule/signal_share"] < 1
    assert values["schedule/factor"] > 0
    assert values["schedule/learning_rate_last"] <= values["schedule/learning_rate_max"] <= 0.01 * 2


def shown(folder: Path) -> dict[str, list[int]]:
    """The pictures in a run's event files: tag -> the steps of each."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


def test_each_evaluation_is_shown_as_a_picture_per_layer(
    tiny_config: Callable[..., RunConfig], run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    run(tiny_config("logger=tensorboard", "model.n_layers=2", "trainer.max_steps=5"), tmp_path)
    assert shown(tmp_path) == {f"attention/layer_{layer}": [2, 4, 5] for layer in range(2)}


@pytest.mark.parametrize("overrides", [("logger=csv",), ("logger=tensorboard", "logger.tensorboard.pictures=false")])
def test_what_nobody_looks_at_is_not_drawn(
    overrides: tuple[str, ...],
    tiny_config: Callable[..., RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[torch.Tensor] = []

    def drawing(weights: torch.Tensor) -> torch.Tensor:
        drawn.append(weights)
        return picture(weights)

    monkeypatch.setattr("ablab.model.attention.probe.picture", drawing)
    assert run(tiny_config(*overrides), tmp_path).status == "ok"
    assert shown(tmp_path) == {}
    assert len(drawn) == 1  # the file that the run leaves of its one layer, whoever looks at it


def test_a_run_leaves_where_its_layers_looked(
    tiny_config: Callable[..., RunConfig], run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    """A window of four: each row of the picture is bright in its last four columns at most, and in no later one."""
    config = tiny_config("attention=windowed", "attention.window=4", "model.n_layers=2", "model.n_heads=1")
    record = run(config, tmp_path)
    assert record.pictures == ["pictures/attention_layer_0.png", "pictures/attention_layer_1.png"]
    for name in record.pictures:
        pixels = np.asarray(Image.open(tmp_path / name))
        assert pixels.shape == (32, 32)
        rows, columns = np.nonzero(pixels)
        assert len(rows)
        assert ((rows - columns >= 0) & (rows - columns < 4)).all()
        assert (pixels.max(axis=1) == 255).all()  # each query's heaviest key is white


def test_only_the_first_process_shows_pictures(tmp_path: Path) -> None:
    logger = EventsLogger(run=RunInfo(folder=tmp_path, study="", variant="", seed=0, config={}))
    for first, painters in ((True, [logger]), (False, [])):
        trainer: Any = SimpleNamespace(is_global_zero=first, loggers=[Rows(), logger])
        assert pictures.painters(trainer) == painters


def test_the_trace_of_a_schedule_in_four_figures() -> None:
    trainer = SimpleNamespace(lr_scheduler_configs=[])
    module = SimpleNamespace(learning_rates=[0.1, 0.4, 0.1, 0.2], steps_to_target=None)
    assert callbacks._schedule(trainer, module) == {  # type: ignore[arg-type]
        "schedule/learning_rate_min": 0.1,
        "schedule/learning_rate_max": 0.4,
        "schedule/learning_rate_mean": pytest.approx(0.2),
        "schedule/learning_rate_last": 0.2,
    }
    module = SimpleNamespace(learning_rates=[], steps_to_target=30)
    assert callbacks._schedule(trainer, module) == {"schedule/steps_to_target": 30.0}  # type: ignore[arg-type]


def test_a_run_that_breaks_while_it_is_measured_lets_go_of_the_model(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainingModule] = []

    def break_down(self: TrainingModule, batch: Any, index: int) -> None:
        seen.append(self)
        assert any(each._forward_hooks for each in self.model.modules())
        raise RuntimeError("no")

    monkeypatch.setattr(TrainingModule, "validation_step", break_down)
    config = tiny_config()
    prepare_folder(config, tmp_path)
    assert execute(config, tmp_path).status == "failed"
    assert not any(each._forward_hooks for each in seen[0].model.modules())


def test_mechanisms_without_an_evaluation_are_none() -> None:
    assert Mechanisms().values == {}


def test_each_process_draws_its_own() -> None:
    draws = []
    for seed, rank in ((0, 0), (0, 0), (0, 1), (1, 0)):
        seed_everything_else(seed, rank)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3
