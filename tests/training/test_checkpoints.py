"""Checkpoints: whole or not at all, the last and the best."""

from __future__ import annotations

import errno
import os
import signal
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Metric, Record
from ablab.training.checkpoint_files import (
    AtomicCheckpointIO,
    check_readable,
    link,
    put_in_place,
    write_file,
)
from ablab.training.checkpoint_folders import CheckpointFiles
from ablab.training.checkpoint_list import Found, Origin, newest_whole, sha256_of
from ablab.training.checkpoints import Checkpoints
from ablab.training.generation import load_run
from ablab.training.module import TrainingModule

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


ORIGIN = Origin(run="run", corpus="corpus")
FILES = {"last.ckpt", "previous.ckpt", "checksums.json"}


def write(path: Path, step: int, **content: Any) -> None:
    AtomicCheckpointIO(ORIGIN).save_checkpoint({"global_step": step, **content}, path)


def test_a_write_that_fails_half_way_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    write(path, 1, weights=torch.arange(1000))
    whole = path.read_bytes()

    def disk_full(checkpoint: dict[str, Any], file: BinaryIO) -> None:
        file.write(whole[: len(whole) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disk_full)
        with pytest.raises(OSError, match="No space left"):
            write(path, 2)
    assert path.read_bytes() == whole
    assert names(tmp_path) == FILES - {"previous.ckpt"}
    assert newest_whole(tmp_path, ORIGIN) == (Found(path, 1, sha256=sha256_of(path)), [])

    write(path, 2)
    assert newest_whole(tmp_path, ORIGIN) == (Found(path, 2, sha256=sha256_of(path)), [])
    assert names(tmp_path) == FILES
    assert torch.load(tmp_path / "previous.ckpt", weights_only=True)["global_step"] == 1


def write_folder(path: Path, step: int) -> None:
    """As the first process does it, when all have written what they hold."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.mkdir(parents=True)
    write_file({"global_step": step}, temporary / "rest.pt")
    (temporary / "piece").write_text(str(step))
    put_in_place(temporary, path, ORIGIN, step)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("write", [write, write_folder])
def test_killed_at_any_moment_of_a_write_there_is_a_whole_checkpoint(
    tmp_path: Path, write: Callable[[Path, int], None]
) -> None:
    """A process is killed at its first, second, ... call to the operating system that could leave something behind."""
    seen = []
    for moment in range(1, 100):
        folder = tmp_path / str(moment)
        write(folder / "last.ckpt", 1)
        write(folder / "last.ckpt", 2)
        child = os.fork()
        if child == 0:
            _die_at(moment)
            write(folder / "last.ckpt", 3)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] == signal.SIGKILL
        found, damaged = newest_whole(folder, ORIGIN)
        assert found is not None
        assert damaged == []
        whole = found.path / "rest.pt" if found.path.is_dir() else found.path
        assert torch.load(whole, weights_only=True)["global_step"] == found.step
        assert names(folder) <= FILES, "what was left is not cleared away"
        seen.append(found.step)
        if not killed:
            break
    assert seen == sorted(seen)
    assert set(seen) == {2, 3}
    assert len(seen) > 5, "the moments were not met"


def _die_at(moment: int) -> None:
    count = 0

    def dying(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for name in ("fsync", "chmod", "replace", "link", "unlink", "rename"):
        setattr(os, name, dying(getattr(os, name)))


@pytest.mark.parametrize("writes", [(write, write_folder), (write_folder, write), (write_folder, write_folder)])
def test_files_and_folders_take_each_other_s_place(
    tmp_path: Path, writes: tuple[Callable[[Path, int], None], ...]
) -> None:
    """As where a run goes on with another strategy."""
    path = tmp_path / "last.ckpt"
    for step, one in enumerate((*writes, *writes), start=1):
        one(path, step)
        link(path, tmp_path / "best.ckpt")
        assert newest_whole(tmp_path, ORIGIN) == (Found(path, step, sha256=sha256_of(path)), [])
        assert (tmp_path / "best.ckpt").is_dir() == path.is_dir() == (one is write_folder)
        assert names(tmp_path) <= FILES | {"best.ckpt"}
    if path.is_dir():
        with (path / "piece").open("a") as file:
            file.write("!")
    else:
        path.unlink()
    found, damaged = newest_whole(tmp_path, ORIGIN)
    previous = tmp_path / "previous.ckpt"
    assert found == Found(previous, 3, sha256=sha256_of(previous))
    assert len(damaged) == path.is_dir()


def test_only_checkpoints_of_the_run_and_its_data_are_found(tmp_path: Path) -> None:
    write(tmp_path / "last.ckpt", 1)
    assert newest_whole(tmp_path, Origin(run="other", corpus="corpus")) == (None, [])
    line = f"{tmp_path.name}/last.ckpt is of other data than there are now"  # as nothing else of the run is other
    assert newest_whole(tmp_path, Origin(run="run", corpus="other")) == (None, [line])
    (tmp_path / "checksums.json").write_text("{")
    found, damaged = newest_whole(tmp_path, ORIGIN)
    assert found is None
    assert len(damaged) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_what_was_not_finished_is_removed_by_one_process(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several would get into each other's way."""
    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": 29500}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / ".last.ckpt.new").mkdir()
    assert newest_whole(tmp_path, ORIGIN) == (None, [])
    assert names(tmp_path) == ({".last.ckpt.new"} if rank else set())


def test_it_is_read_into_the_cpus_memory_unless_asked_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning asks for nothing, and the device that wrote it need not be there."""
    write(tmp_path / "last.ckpt", 1)
    places: list[Any] = []
    monkeypatch.setattr(torch, "load", lambda *_, map_location, **__: places.append(map_location))
    CheckpointFiles(ORIGIN).load_checkpoint(tmp_path / "last.ckpt")
    assert places == ["cpu"]


def test_colleagues_may_read_it(tmp_path: Path) -> None:
    write(tmp_path / "new" / "last.ckpt", 0)
    for name in ("last.ckpt", "checksums.json"):
        assert (tmp_path / "new" / name).stat().st_mode & 0o777 == 0o644


class FakeTrainer:
    """Evaluates to the values given, one after the other; the checkpoint holds the step."""

    is_global_zero = True
    max_steps = 100
    val_check_batch = 1
    world_size = 1
    should_stop = False
    accumulate_grad_batches = 1
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)

    def __init__(self) -> None:
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.global_step = 0

    def save_checkpoint(self, path: Path, storage_options: object = None) -> None:
        write(path, self.global_step)


def kept(folder: Path, direction: Any, values: list[float]) -> list[tuple[int, int]]:
    """The steps of last.ckpt and best.ckpt after each evaluation."""
    callback = Checkpoints(folder, Metric(name="val_x", split="val", direction=direction))
    trainer, seen = FakeTrainer(), []
    for trainer.global_step, value in enumerate(values, start=1):
        trainer.callback_metrics["val_x"] = torch.tensor(value)
        callback.on_validation_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
        files = [folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best")]
        seen.append(tuple(torch.load(file, weights_only=True)["global_step"] for file in files))
        assert names(folder / "checkpoints") <= FILES | {"best.ckpt"}
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
    trainer.global_step, trainer.callback_metrics["val_x"] = 1, torch.tensor(3.0)
    second.on_validation_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 0


def test_the_best_is_named_when_the_run_was_killed_before_it_was(tmp_path: Path) -> None:
    primary = Metric(name="val_x", split="val", direction="min")
    first, second = Checkpoints(tmp_path, primary), Checkpoints(tmp_path, primary)
    trainer: Any = FakeTrainer()
    for trainer.global_step, value in ((1, 2.0), (2, 1.0)):
        trainer.callback_metrics["val_x"] = torch.tensor(value)
        with pytest.MonkeyPatch.context() as patch:
            if trainer.global_step == 2:
                patch.setattr(first, "_name_best", lambda trainer: None)
            first.on_validation_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    best = tmp_path / "checkpoints" / "best.ckpt"
    assert torch.load(best, weights_only=True)["global_step"] == 1
    second.load_state_dict(first.state_dict())
    second.on_train_start(trainer, SimpleNamespace())  # type: ignore[arg-type]
    assert torch.load(best, weights_only=True)["global_step"] == 2


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


def test_whether_a_state_can_be_read_is_tried_without_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its types are what counts; writing a copy of averaged weights at each checkpoint would take as long as those."""
    sizes: list[int] = []
    save = torch.save

    def measured(state: Any, file: Any) -> None:
        save(state, file)
        sizes.append(file.tell())

    monkeypatch.setattr(torch, "save", measured)
    big = torch.zeros(1_000_000)
    state = {"a": big, "b": [torch.nn.Parameter(big), OrderedDict(c=(big.to(torch.bfloat16), "text", 1, None))]}
    check_readable("mine", state)
    assert sizes[0] < 10_000
    assert state["a"] is big
    for held in (Path("x"), SimpleNamespace(a=1), np.zeros(3)):
        with pytest.raises(UserError, match=r"^mine: its state_dict cannot be kept in a checkpoint \("):
            check_readable("mine", {"a": [{"b": (big, held)}]})


def test_checkpoints_load_without_running_code(finished: Any) -> None:
    """And hold all that a run needs to go on."""
    for name in ("last", "best"):
        path = finished.folder / "checkpoints" / f"{name}.ckpt"
        state = torch.load(path, map_location="cpu", weights_only=True)
        assert state.keys() >= {"state_dict", "optimizer_states", "lr_schedulers", "global_step", "callbacks", "Text"}
    last = torch.load(finished.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 7
    assert len(last["optimizer_states"]) == len(last["lr_schedulers"]) == 1
