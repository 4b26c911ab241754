"""Callbacks of Lightning's, and somebody's own: they fire as under plain Lightning, and count where they compute."""

from __future__ import annotations

import csv
import importlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from test_resume import STEPS, assert_same, interrupted, left_behind
from torch import Tensor, nn

from ablab.config import RunConfig, fingerprint
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight
from ablab.tasks.base import Batch
from ablab.training.build import build_task
from ablab.training.trainer import quiet_lightning

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]


class Plain(LightningModule):
    """Next bytes from the byte before, as anybody would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(256, 8), nn.Linear(8, 256))

    def loss(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(self.net(inputs).flatten(0, 1), targets.flatten())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters())
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_hooks_fire_as_under_plain_lightning(
    accumulate: int, tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps, evaluated, and written, after three and six; then the test split."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    recording = importlib.import_module("recording")
    config = tiny_config(
        *("trainer.max_steps=6", "trainer.val_check_interval=3", f"trainer.accumulate_grad_batches={accumulate}"),
        *("task.test_fraction=0.1", "+callbacks.mine._target_=recording.Recorder"),
    )
    recording.seen.clear()
    assert run(config, tmp_path / "ours").status == "ok"
    ours = list(recording.seen)

    recording.seen.clear()
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu",
            max_steps=6,
            max_epochs=-1,
            val_check_interval=3 * accumulate,
            check_val_every_n_epoch=None,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                recording.Recorder(),
                ModelCheckpoint(tmp_path / "plain", save_top_k=-1, save_on_train_epoch_end=False),
            ],
        )
        task, module = build_task(config), Plain()
        trainer.fit(module, datamodule=task)
        trainer.test(module, datamodule=task, verbose=False)

    assert Counter(name for name, *_ in ours) == Counter(name for name, *_ in recording.seen)
    assert ours == recording.seen
    counted = Counter(name for name, *_ in ours)
    assert counted["on_train_batch_end"] == 6 * accumulate
    assert counted["on_before_optimizer_step"] == counted["on_before_zero_grad"] == 6
    assert counted["on_save_checkpoint"] == counted["on_validation_end"] == 2


def test_a_run_that_stops_early_is_ok_with_the_steps_it_took(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    stopping = (
        "callbacks=early_stopping",
        "callbacks.early_stopping.min_delta=100",
        "callbacks.early_stopping.patience=2",
    )
    record = run(tiny_config("trainer.max_steps=40", *stopping), tmp_path)
    assert (record.status, record.reason) == ("ok", None)
    assert record.cost.steps == 6  # the first evaluation, at step 2, and two without an improvement of 100
    assert record.cost.tokens == 6 * 4 * 32
    assert len(record.last["val_loss"]) == 3
    assert record.axes["callbacks"] == "early_stopping"


def test_an_early_stop_goes_with_the_checkpoint(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ended too soon after it takes no step more when it goes on."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    flag = tmp_path / "flag"
    config = tiny_config(
        *("trainer.max_steps=40", "callbacks=early_stopping", "callbacks.early_stopping.min_delta=100"),
        *("callbacks.early_stopping.patience=2", "+callbacks.end._target_=recording.Interrupted"),
        *(f"+callbacks.end.flag={flag}", "+callbacks.end.observer=true"),
    )
    whole = run(config, tmp_path / "whole")
    flag.touch()
    assert run(config, tmp_path / "parts").status == "interrupted"
    parts = run(config, tmp_path / "parts")
    assert (parts.status, parts.cost.steps) == (whole.status, whole.cost.steps) == ("ok", 6)
    assert (parts.metrics, parts.last) == (whole.metrics, whole.last)


def test_checkpoints_of_the_user_s_lie_beside_those_of_the_run(
    tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    """Under the same names; and nothing of theirs is taken for what the run goes on from."""
    config = tiny_config(
        *("trainer.max_steps=4", "+callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint"),
        *("+callbacks.mine.save_last=true", "+callbacks.mine.every_n_train_steps=1"),
    )
    assert run(config, tmp_path / "run").status == "ok"
    own = tmp_path / "run" / "checkpoints"
    assert (own / "mine" / "last.ckpt").is_file()
    listed = json.loads((own / "checksums.json").read_text(encoding="utf-8"))
    assert [each["step"] for each in listed] == [4, 2]
    own = tmp_path / "there" / "checkpoints"
    there = config.with_values({"callbacks.mine.dirpath": str(own)})
    assert run(there, tmp_path / "there").reason == (
        f"{own}/last.ckpt: is the run's own; give the callback that writes it another dirpath or filename"
    )


def test_a_finished_run_gets_its_record_whatever_callbacks_do(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed before that, and theirs may need what Lightning has only while it trains."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    config = tiny_config("trainer.max_steps=2", "+callbacks.mine._target_=recording.LogsAtTheStart")
    for _ in range(2):
        record = run(config, tmp_path)
        assert record.status == "ok", record.reason
        (tmp_path / "record.json").unlink()


@pytest.mark.parametrize("options", [("ema",), ("early_stopping",), ("ema", "early_stopping")])
def test_a_run_that_goes_on_has_its_callbacks_state(
    options: tuple[str, ...], tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    """Stopped between two evaluations: it ends as one that was left alone."""
    patience = "callbacks.early_stopping.patience=3", "callbacks.early_stopping.min_delta=100"
    config = tiny_config(*STEPS, f"callbacks=[{','.join(options)}]", *(patience if "early_stopping" in options else ()))
    assert run(config, tmp_path / "whole").status == "ok"
    assert interrupted(config, tmp_path / "parts", 15).status == "interrupted"
    assert run(config, tmp_path / "parts").status == "ok"
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert_same(parts.get(key, {}), whole.get(key, {}))
    assert_same(left_behind(tmp_path / "parts"), left_behind(tmp_path / "whole"))


def test_gradient_norms_are_those_before_the_clip(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    settings = ("callbacks=gradient_norms", "callbacks.gradient_norms.per_parameter=true")
    config = tiny_config(*settings, "trainer.gradient_clip_val=0.001", "trainer.log_every_n_steps=2")
    assert run(config, tmp_path).status == "ok"
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["gradient_norm"]]
    assert [int(row["step"]) for row in rows] == [2, 4]
    for row in rows:
        each = [float(value) for name, value in row.items() if name.startswith("gradient_norm/")]
        assert len(each) > 5
        assert float(row["gradient_norm"]) == pytest.approx(sum(value**2 for value in each) ** 0.5, rel=1e-4)
        assert float(row["gradient_norm"]) > 0.01


def test_callbacks_count_where_they_compute(tiny_config: TinyConfig) -> None:
    plain = fingerprint(tiny_config())
    assert fingerprint(tiny_config("callbacks=[]")) == plain
    assert fingerprint(tiny_config("callbacks=[learning_rate_monitor,gradient_norms]")) == plain
    with_ema = fingerprint(tiny_config("callbacks=ema"))
    assert with_ema != plain
    assert fingerprint(tiny_config("callbacks=[ema,device_stats_monitor]")) == with_ema
    assert fingerprint(tiny_config("callbacks=ema", "callbacks.ema.decay=0.9")) not in (with_ema, plain)
    assert fingerprint(tiny_config("+callbacks.mine._target_=recording.Recorder")) != plain


MINE = "+callbacks.mine._target_"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["callbacks=early_stopping", "+callbacks.early_stopping.patiens=3"], "patiens: no such setting of callbacks"),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.patience=few"],
            "patience='few': must be a whole number",
        ),
        (["callbacks=early_stopping", "callbacks.early_stopping.mode=up"], "early_stopping could not be built"),
        (["+callbacks.mine._target_=nowhere.Mine"], "nowhere.Mine: there is no module nowhere"),
        (["+callbacks.mine._target_=pathlib.Path"], "must be a lightning.Callback"),
        (
            [f"+callbacks.{name}._target_=recording.Counting" for name in ("one", "two")],
            "callbacks.two: has the state_key of callbacks.one",
        ),
        (
            [
                "+callbacks.mine._target_=lightning.pytorch.callbacks.GradientAccumulationScheduler",
                "+callbacks.mine.scheduling={0: 2}",
            ],
            "use trainer.accumulate_grad_batches",
        ),
        (["+callbacks.mine._target_=lightning.pytorch.callbacks.BatchSizeFinder"], "use task.batch_size"),
        (["callbacks=early_stopping", "callbacks.early_stopping.monitor=val_los"], "did you mean 'val_loss'?"),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val_los", f"{MINE}=recording.Recorder"],
            "callbacks.early_stopping.monitor=val_los: no such metric; did you mean 'val_loss'?",
        ),
        (
            [f"{MINE}=recording.NoServer"],
            "callbacks.mine: cannot be set up (RuntimeError: no server here (recording.py:",
        ),
        (
            [f"{MINE}=lightning.pytorch.callbacks.BackboneFinetuning"],
            "callbacks.mine: cannot be set up (AttributeError: 'TrainingModule' object has no attribute 'backbone'",
        ),
        (
            ["callbacks=early_stopping", "+callbacks.early_stopping.check_on_train_epoch_end=true"],
            "callbacks.early_stopping.check_on_train_epoch_end=true: a run has no epochs",
        ),
        (
            ["callbacks=learning_rate_monitor", "callbacks.learning_rate_monitor.logging_interval=epoch"],
            "logging_interval=epoch: a run has no epochs",
        ),
        (
            ["callbacks=[ema,weight_averaging]"],
            "callbacks.weight_averaging: averages weights, as callbacks.ema does, and each would go on from",
        ),
        (["callbacks=ema", "callbacks.ema.update_every_n_steps=0"], "update_every_n_steps=0: must be 1 or more"),
        (["callbacks=ema", "callbacks.ema.decay=1.5"], "decay=1.5: must be at least 0, and below 1"),
        (
            ["callbacks=weight_averaging", "optimizer=schedule_free", "schedule=constant"],
            "callbacks.weight_averaging: averages the weights that are trained, and AdamWScheduleFree evaluates",
        ),
        (["+callbacks.mine.patience=3"], "callbacks.mine: the option has no _target_"),
        (["callbacks=ema", "+callbacks.ema.observer=maybe"], "callbacks.ema.observer=maybe: must be true or false"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(
    overrides: list[str], words: str, tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(UserError) as raised:
        Preflight().check(tiny_config(*overrides))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["callbacks=[early_stopping,ema,learning_rate_monitor,device_stats_monitor,gradient_norms]"],
        ["callbacks=early_stopping", "callbacks.early_stopping.monitor=surprise", f"{MINE}=recording.Surprise"],
        [f"{MINE}=lightning.pytorch.callbacks.ModelCheckpoint", "+callbacks.mine.monitor=val_loss"],
        [f"{MINE}=lightning.pytorch.callbacks.RichModelSummary"],
        [f"{MINE}=lightning.pytorch.callbacks.Timer", "+callbacks.mine.duration='00:01:00:00'"],
    ],
)
def test_what_can_be_is_set_up_without_a_trace(
    overrides: list[str],
    tiny_config: TinyConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    Preflight().check(tiny_config(*overrides))
    assert torch.equal(before, torch.get_rng_state())
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")
