"""A run that was interrupted and goes on ends as one that was left alone: bit for bit, in all that it leaves behind."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_costs import counted
from lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from ablab.config import RunConfig
from ablab.results.record import Record
from ablab.results.store import CHECKPOINT_FOLDER, METRICS_FILE, RECORD_FILE, read_record
from ablab.training import trainer as trainers
from ablab.training.begin import prepare_folder
from ablab.training.callbacks import Curves, ReportProgress
from ablab.training.checkpoints import generators, set_generators
from ablab.training.run import execute

# Mechanism metrics that are measured on the clock, and the one that counts what a strategy sends when it starts.
TIMED = ("_s_per_step", "/overlap", "/collectives_per_step")

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]

# Evaluations after steps 6, 12, 18; what is logged ends a block of 3 steps.
STEPS = ("trainer.max_steps=20", "trainer.val_check_interval=6", "trainer.log_every_n_steps=3", "model.dropout=0.1")


class StopAt(Callback):
    """Ctrl-C in the block that ends with `step`."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(config: RunConfig, folder: Path, step: int) -> Record:
    """The record of a run that was asked to stop at a step."""
    prepare_folder(config, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "Curves", lambda every: Both(Curves(every), StopAt(step)))
        return execute(config, folder, counted=counted(config))


class Both(Curves):
    def __init__(self, curves: Any, stop: StopAt) -> None:
        self.__dict__.update(vars(curves))
        self._stop_at = stop

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        self._stop_at.on_train_batch_end(trainer)


def left_behind(folder: Path, but: tuple[str, ...] = TIMED) -> dict[str, Any]:
    """All that must not depend on whether a run was interrupted, but for figures whose names end with one of `but`."""
    record = read_record(folder / RECORD_FILE)
    state = torch.load(folder / CHECKPOINT_FOLDER / "last.ckpt", weights_only=True)
    best = torch.load(folder / CHECKPOINT_FOLDER / "best.ckpt", weights_only=True)
    with (folder / METRICS_FILE).open() as file:
        rows = [{k: v for k, v in row.items() if v and not k.endswith(but)} for row in csv.DictReader(file)]
        curves = sorted(sorted(row.items()) for row in rows)
    return {
        "status": (record.status, record.reason),
        "weights": state["state_dict"],
        "optimizer": state["optimizer_states"],
        "schedule": state["lr_schedulers"],
        "trace": state["history"]["learning_rates"],
        "best": (best["global_step"], best["state_dict"]),
        "metrics": record.metrics,
        "last": record.last,
        "evaluated": record.evaluated,
        "mechanism": {name: value for name, value in record.mechanism.items() if not name.endswith(but)},
        "responses": record.responses,
        "steps": (record.cost.steps, record.cost.tokens),
        "curves": curves,
        "generators": state["callbacks"]["Watchers[Randomness, ParallelState]"]["Randomness"],
    }


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the last bit; NaN equals NaN."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (own, its) in enumerate(zip(one, other, strict=True)):
            assert_same(own, its, f"{where}/{index}")
    elif isinstance(one, torch.Tensor):
        assert (
            torch.equal(one.nan_to_num(7e7), other.nan_to_num(7e7))
            if one.is_floating_point()
            else torch.equal(one, other)
        ), where
    else:
        assert one == other or (one != one and other != other), f"{where}: {one} {other}"


OPTIONS = [
    (),
    ("schedule=gradient_variance", "activation=dynamic_sparse"),
    ("schedule=gradient_variance", "schedule.per_group=true", "optimizer=muon"),
    ("schedule=plateau", "optimizer=lion"),
    ("schedule=cyclic_restarts", "optimizer=sgd", "layer_fusion=adaptive", "model.n_layers=2"),
    ("schedule=constant", "optimizer=schedule_free"),
    (
        *("attention=lsh", "attention.dense_below=0", "trainer.accumulate_grad_batches=2", "feed_forward=moe"),
        "optimizer=normuon",
    ),
    ("attention=dynamic", "attention.dense_below=0", "task.workers=2", "optimizer=soap", "optimizer.frequency=4"),
    (
        *("task=recall", "task.workers=1", "trainer.val_check_interval=7", "optimizer=cautious_adamw"),
        *("objective=multi_token", "objective.depth=2", "objective.weight_end=0.1", "objective.z_loss=1e-3"),
    ),
]


# Before the first evaluation, at one, and when all is trained; for all options between two.
MOMENTS = [((), 3), ((), 12), ((), 20), *((options, 15) for options in OPTIONS)]


@pytest.fixture(scope="module")
def whole(tiny_config: TinyConfig, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """whole("optimizer=lion", ...): the folder of a run that was left alone; of all tests, which only look at it."""

    @cache
    def make(*options: str) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        assert run(tiny_config(*STEPS, *options), folder).status == "ok"
        return folder

    return make


@pytest.fixture(scope="module")
def stopped(tiny_config: TinyConfig, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """stopped(folder, step, "optimizer=lion", ...): leave in a folder what a run left that was stopped at a step."""

    @cache
    def made(step: int, *options: str) -> Path:
        folder = tmp_path_factory.mktemp("stopped")
        first = interrupted(tiny_config(*STEPS, *options), folder, step)
        assert (first.status, first.reason) == ("interrupted", "stopped before it was finished")
        return folder

    return lambda folder, step, *options: shutil.copytree(made(step, *options), folder, dirs_exist_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "step"), MOMENTS, ids=lambda of: ",".join(of) if isinstance(of, tuple) else of)
def test_stopped_and_gone_on(
    tiny_config: TinyConfig,
    run: Run,
    whole: Callable[..., Path],
    stopped: Callable[..., None],
    tmp_path: Path,
    options: tuple[str, ...],
    step: int,
) -> None:
    stopped(tmp_path, step, *options)
    notes = run(tiny_config(*STEPS, *options), tmp_path).notes
    assert notes == read_record(whole(*options) / RECORD_FILE).notes, "something is said to be damaged"
    assert_same(left_behind(tmp_path), left_behind(whole(*options)))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("optimizer=schedule_free", "schedule=constant"),
        ("callbacks=ema", "callbacks.ema.decay=0.9", "task.test_fraction=0.1"),
        ("callbacks=ema", "callbacks.ema.decay=0.9", "task.test_fraction=0.1", "trainer.val_check_interval=5"),
    ],
    ids=",".join,
)
def test_killed_between_its_last_checkpoint_and_its_record(
    options: tuple[str, ...], tiny_config: TinyConfig, run: Run, whole: Callable[..., Path], tmp_path: Path
) -> None:
    """Nothing is left to train, and what ends a training is done all the same; the last was not named the best yet."""
    left = left_behind(whole(*options))
    shutil.copytree(whole(*options), tmp_path, dirs_exist_ok=True)
    (tmp_path / RECORD_FILE).unlink()
    if left["best"][0] == 20:
        (tmp_path / CHECKPOINT_FOLDER / "best.ckpt").unlink()
    assert run(tiny_config(*STEPS, *options), tmp_path).status == "ok"
    assert_same(left_behind(tmp_path), left)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tiny_config: TinyConfig,
    run: Run,
    whole: Callable[..., Path],
    stopped: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped(tmp_path, 15)  # the one before it is of step 12
    damage(tmp_path / CHECKPOINT_FOLDER / "last.ckpt")
    record = run(tiny_config(*STEPS), tmp_path)
    damaged = "checkpoints/last.ckpt is damaged (its checksum is not that of what was written): went on from"
    assert record.notes == [f"{damaged} previous.ckpt"]
    assert record.notes[0] in capsys.readouterr().err
    assert_same(left_behind(tmp_path), left_behind(whole()))


def test_without_a_whole_checkpoint_the_run_begins_anew(
    tiny_config: TinyConfig, run: Run, whole: Callable[..., Path], stopped: Callable[..., None], tmp_path: Path
) -> None:
    stopped(tmp_path, 15)
    for name in ("last", "previous"):
        damage(tmp_path / CHECKPOINT_FOLDER / f"{name}.ckpt")
    record = run(tiny_config(*STEPS), tmp_path)
    assert [note.split(":")[1] for note in record.notes] == [" went on from the start"] * 2
    assert_same(left_behind(tmp_path), left_behind(whole()))


def test_the_checkpoint_of_another_run_is_not_gone_on_from(
    tiny_config: TinyConfig, run: Run, stopped: Callable[..., None], tmp_path: Path
) -> None:
    """A changed setting never meets what an earlier one left, nor does changed data."""
    stopped(tmp_path / "run", 15)
    other = tiny_config(*STEPS, "optimizer.lr=0.002")
    run(other, tmp_path / "run")
    run(other, tmp_path / "fresh")
    assert_same(left_behind(tmp_path / "run"), left_behind(tmp_path / "fresh"))

    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} and {n * n}\n" for n in range(2000)))
    config = tiny_config(*STEPS, f"task.path={text}")
    interrupted(config, tmp_path / "changed", 15)
    text.write_text("".join(f"{n} or {n * n}\n" for n in range(2000)))
    record = run(config, tmp_path / "changed")
    assert record.notes == [
        f"checkpoints/{name}.ckpt is of other data than there are now: went on from the start"
        for name in ("last", "previous")
    ]
    run(config, tmp_path / "anew")
    assert_same(left_behind(tmp_path / "changed"), left_behind(tmp_path / "anew"))


def test_a_second_request_ends_the_run_at_once(tiny_config: TinyConfig, tmp_path: Path) -> None:
    class Twice(StopAt):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            super().on_train_batch_end(trainer)
            super().on_train_batch_end(trainer)

    handler = signal.getsignal(signal.SIGINT)
    config = tiny_config(*STEPS)
    prepare_folder(config, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "Curves", lambda every: Both(Curves(every), Twice(15)))
        assert execute(config, tmp_path).status == "interrupted"
    assert torch.load(tmp_path / CHECKPOINT_FOLDER / "last.ckpt", weights_only=True)["global_step"] == 12
    assert signal.getsignal(signal.SIGINT) is handler


def test_generators_go_on_where_they_were() -> None:
    before = generators()

    def draw() -> list[float]:
        return [float(torch.rand(1)), random.random(), random.gauss(0, 1), float(np.random.randn())]

    first = [draw(), draw()]
    set_generators(before)
    assert [draw(), draw()] == first


def damage(path: Path) -> None:
    """One bit of it, in the middle. A copy: another name of the file may be whole."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_tensorboard_shows_each_step_once(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """What was logged after the checkpoint is logged again, and counts once."""
    config = tiny_config(*STEPS, "logger=tensorboard")
    interrupted(config, tmp_path, 15)
    (tmp_path / CHECKPOINT_FOLDER / "previous.ckpt").replace(tmp_path / CHECKPOINT_FOLDER / "last.ckpt")  # of step 12
    run(config, tmp_path)
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [3, 6, 9, 12, 15, 18]
    assert [event.step for event in events.Scalars("val_loss")] == [6, 12, 18, 20]


def test_a_run_that_was_killed_before_its_first_checkpoint_has_one_curve(
    tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    """What it logged then is logged again from the beginning."""
    config = tiny_config("logger=tensorboard", "trainer.max_steps=4")
    prepare_folder(config, tmp_path)
    writer = SummaryWriter(str(tmp_path))
    for step in (1, 2):
        writer.add_scalar("train_loss", 100.0, step)
    writer.close()
    run(config, tmp_path)
    points = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload().Scalars("train_loss")
    assert [point.step for point in points] == [1, 2, 3, 4]
    assert max(point.value for point in points) < 50


@pytest.mark.parametrize("edit", [("train_loss", 1), ("val_loss", 1), (None, 0)])
def test_a_changed_digit_of_the_curves_is_in_the_record(
    tiny_config: TinyConfig,
    run: Run,
    stopped: Callable[..., None],
    tmp_path: Path,
    edit: tuple[str | None, int],
) -> None:
    """In any row that was there at the checkpoint; a column that came later is no change."""
    config = tiny_config(*STEPS)
    stopped(tmp_path, 15)
    path = tmp_path / METRICS_FILE
    with path.open() as file:
        rows = list(csv.DictReader(file))
    column, expected = edit
    if column is not None:
        row = [row for row in rows if row[column]][-1]
        row[column] = row[column][:-1] + str((int(row[column][-1]) + 1) % 10)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "later", *(name for name in rows[0] if name != "step")], restval="")
        writer.writeheader()
        writer.writerows(rows)
    notes = run(config, tmp_path).notes
    assert notes == ["metrics.csv was changed: its rows up to step 15 are not those that the run wrote"][:expected]


def test_rows_that_were_lost_are_in_the_record(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("trainer.max_steps=8", "trainer.val_check_interval=2")
    prepare_folder(config, tmp_path)
    monkeypatch.setattr(ReportProgress, "INTERVAL_S", 0.0)

    def stop(step: int, *_: object) -> None:
        if step == 4:
            signal.raise_signal(signal.SIGINT)

    assert execute(config, tmp_path, progress=stop).status == "interrupted"
    curves = tmp_path / "metrics.csv"
    header, first, *_ = curves.read_text().splitlines(True)
    curves.write_text(header + first)
    prepare_folder(config, tmp_path)
    record = execute(config, tmp_path)
    assert record.status == "ok"
    assert [note.startswith("metrics.csv was damaged: the rows of step") for note in record.notes] == [True]
