"""What fails beside the training of a run, whose metrics are there: noted in its record, and no more."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from ablab.analysis.comparison import compare
from ablab.analysis.notes import RunNote
from ablab.config import RunConfig
from ablab.model.attention.full import FullAttention
from ablab.model.norm import LayerNorm
from ablab.results.collect import collect
from ablab.results.record import Record
from ablab.training import checkpoint_files
from ablab.training import run as training_run
from ablab.training.begin import prepare_folder
from ablab.training.checkpoint_files import AtomicCheckpointIO
from ablab.training.failures import cause_of, describe
from ablab.training.run import execute

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]


def broken(*args: object, **kwargs: object) -> Any:
    raise RuntimeError("the bulb is broken")


class BrokenLogger(CSVLogger):
    """Somebody's logger, whose service is gone."""

    log_metrics = save = finalize = broken


@pytest.mark.parametrize("name", ["leave_pictures", "probe_outputs", "write_hparams", "describe_groups"])
def test_what_is_asked_after_the_metrics(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(training_run, name, broken)
    record = run(tiny_config(), tmp_path)
    assert (record.status, record.reason) == ("ok", None)
    assert record.metrics["val_loss"] > 0
    [note] = record.notes
    assert "failed: RuntimeError: the bulb is broken" in note


@pytest.mark.parametrize(
    ("kind", "method"),
    [(FullAttention, "mechanism"), (LayerNorm, "mechanism"), (FullAttention, "visited")],
    ids=["own", "norm", "visited"],
)
def test_a_component_that_cannot_be_watched(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, method: str
) -> None:
    monkeypatch.setattr(kind, method, broken, raising=False)
    record = run(tiny_config("norm=layer"), tmp_path)
    assert record.status == "ok"
    assert record.metrics["val_loss"] > 0
    axis = "norm" if kind is LayerNorm else "attention"
    assert f"{axis} was not watched: the bulb is broken" in record.notes
    assert "schedule/learning_rate_max" in record.mechanism


def test_a_logger_whose_service_is_gone(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    config = tiny_config().with_values(
        {"logger": {"mine": {"_target_": f"{__name__}.BrokenLogger", "save_dir": str(tmp_path / "mine")}}}
    )
    record = run(config, tmp_path / "run")
    assert record.status == "ok"
    assert sorted(note.split(" failed")[0] for note in record.notes) == [
        f"logger BrokenLogger.{name}" for name in ("finalize", "log_metrics", "save")
    ]


def test_readers_see_the_note(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny_config("seed=0"), tmp_path / "a")
    monkeypatch.setattr(training_run, "leave_pictures", broken)
    run(tiny_config("seed=0", "optimizer.lr=0.01"), tmp_path / "b")
    [compared] = compare(collect([tmp_path])).items
    assert any(isinstance(note, RunNote) and "drawing pictures failed" in note.text for note in compared.notes)


# A full disk.


class FullDisk:
    """A file on it takes so many bytes."""

    def __init__(self, file: Any) -> None:
        self.file, self.room = file, 4000

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self.file.write(data))

    def flush(self) -> None: ...


class OnFullDisk(checkpoint_files._Hashing):
    def __init__(self, file: Any) -> None:
        super().__init__(FullDisk(file))  # type: ignore[arg-type]


def test_a_full_disk_is_named_and_the_earlier_checkpoint_stays(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    prepare_folder(config := tiny_config(), folder)
    written: list[Path] = []
    save = AtomicCheckpointIO.save_checkpoint

    def second_time(self: AtomicCheckpointIO, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        if written:
            monkeypatch.setattr(checkpoint_files, "_Hashing", OnFullDisk)
        written.append(path)
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", second_time)
    record = execute(config, folder)
    assert (record.status, record.cause) == ("failed", "disk")
    assert str(record.reason).startswith("no space left on device")
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        *("best.ckpt", "checksums.json", "last.ckpt")
    ]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:820] . unexpected pos 586560 vs 586452"),
    ],
)
def test_a_full_disk_in_other_words(error: Exception) -> None:
    assert (cause_of(error), describe(error)) == ("disk", "no space left on device")


def test_other_errors_of_files_are_no_full_disk() -> None:
    assert cause_of(FileNotFoundError(errno.ENOENT, "No such file or directory")) == "error"
