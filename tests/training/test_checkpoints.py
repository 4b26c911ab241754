"""Checkpoints: whole or not at all, the last and the best."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
import torch

from ablab.results.record import Metric, Record
from ablab.training.checkpoints import AtomicCheckpointIO, Checkpoints
from ablab.training.generation import load_run
from ablab.training.module import TrainingModule

TinyConfig = Callable[..., dict[str, Any]]
Run = Callable[[dict[str, Any], Path], Record]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_write_that_fails_half_way_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"step": 1, "weights": torch.arange(1000)}, path)
    whole = path.read_bytes()

    def disk_full(checkpoint: dict[str, Any], file: BinaryIO) -> None:
        file.write(whole[: len(whole) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disk_full)
        with pytest.raises(OSError, match="No space left"):
            writer.save_checkpoint({"step": 2}, path)
    assert path.read_bytes() == whole
    assert names(tmp_path) == {"last.ckpt"}
    assert torch.load(path, weights_only=True)["step"] == 1

    writer.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True)["step"] == 2
    assert names(tmp_path) == {"last.ckpt"}


def test_colleagues_may_read_it(tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({}, tmp_path / "new" / "last.ckpt")
    assert (tmp_path / "new" / "last.ckpt").stat().st_mode & 0o777 == 0o644


class FakeTrainer:
    """Evaluates to the values given, one after the other; the checkpoint holds the step."""

    is_global_zero = True

    def __init__(self) -> None:
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.step = 0

    def save_checkpoint(self, path: Path) -> None:
        AtomicCheckpointIO().save_checkpoint({"step": self.step}, path)


def kept(folder: Path, direction: Any, values: list[float]) -> list[tuple[int, int]]:
    """The steps of last.ckpt and best.ckpt after each evaluation."""
    callback = Checkpoints(folder, Metric(name="val_x", split="val", direction=direction))
    trainer, seen = FakeTrainer(), []
    for trainer.step, value in enumerate(values, start=1):
        trainer.callback_metrics["val_x"] = torch.tensor(value)
        callback.on_validation_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
        files = [folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best")]
        seen.append(tuple(torch.load(file, weights_only=True)["step"] for file in files))
        assert names(folder / "checkpoints") == {"last.ckpt", "best.ckpt"}
    return seen


@pytest.mark.parametrize("links", [True, False])
def test_best_is_the_first_of_the_best_evaluations(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    expected = [(1, 1), (2, 2), (3, 2), (4, 2), (5, 5)]
    assert kept(tmp_path / "low", "min", [3.0, 1.0, 2.0, 1.0, 0.5]) == expected
    assert kept(tmp_path / "high", "max", [3.0, 4.0, 2.0, 4.0, 5.0]) == expected


def test_the_best_so_far_is_remembered(tmp_path: Path) -> None:
    primary = Metric(name="val_x", split="val", direction="min")
    first, second = Checkpoints(tmp_path, primary), Checkpoints(tmp_path, primary)
    trainer = FakeTrainer()
    trainer.callback_metrics["val_x"] = torch.tensor(2.0)
    first.on_validation_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    second.load_state_dict(first.state_dict())
    trainer.step, trainer.callback_metrics["val_x"] = 1, torch.tensor(3.0)
    second.on_validation_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["step"] == 0


def test_last_is_the_final_model_and_best_the_best_evaluated(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learning rate at which the loss soon rises, and more steps than fit into evaluations."""
    evaluated: list[tuple[float, dict[str, torch.Tensor]]] = []
    original = TrainingModule.on_validation_epoch_end

    def watched(self: TrainingModule) -> None:
        original(self)
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        evaluated.append((self.metrics["val_loss"], weights))

    monkeypatch.setattr(TrainingModule, "on_validation_epoch_end", watched)
    config = tiny_config("optimizer.lr=2", "schedule=constant", "trainer.max_steps=5", "optimizer.weight_decay=0")
    assert run(config, tmp_path).status == "ok"
    assert len(evaluated) == 3  # after two and four, and at the end
    best = min(range(3), key=lambda index: evaluated[index][0])
    assert best < 2, "the loss did not rise: this test would see nothing"
    for name, index in (("last", 2), ("best", best)):
        weights = load_run(tmp_path, name)[0].state_dict()
        assert all(torch.equal(value, evaluated[index][1][key]) for key, value in weights.items())


def test_checkpoints_load_without_running_code(finished: Any) -> None:
    """And hold all that a run needs to go on."""
    for name in ("last", "best"):
        path = finished.folder / "checkpoints" / f"{name}.ckpt"
        state = torch.load(path, map_location="cpu", weights_only=True)
        assert state.keys() >= {"state_dict", "optimizer_states", "lr_schedulers", "global_step", "callbacks", "Text"}
    last = torch.load(finished.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 7
    assert len(last["optimizer_states"]) == len(last["lr_schedulers"]) == 1
