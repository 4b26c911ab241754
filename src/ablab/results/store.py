"""A run's folder: the names of its files, and records written so that no reader ever sees half of one."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic_core import from_json

from ablab.errors import UserError
from ablab.results.evaluation import Evaluation, as_evaluation, file_name
from ablab.results.record import Record

CONFIG_FILE = "config.yaml"  # the resolved config
METRICS_FILE = "metrics.csv"  # learning curves, a row for each thing logged
RECORD_FILE = "record.json"  # how the run ended, written last
LOG_FILE = "run.log"  # what the run printed, when it ran in a process of its own
CHECKPOINT_FOLDER = "checkpoints"  # last.ckpt, the one before it, and best.ckpt
ANNEAL_FOLDER = "annealing"  # in it, while shorter runs on the way are made: their checkpoints, and what came of them
CHECKSUM_FILE = "checksums.json"  # beside them: of what was written
WANDB_ID_FILE = "wandb-run-id"  # of the run of Weights & Biases that all attempts go on with
PROFILE_FOLDER = "profile"  # of what trainer.profiler found: tables, and traces of trainer.profiler=pytorch
EVALUATION_FOLDER = "evaluations"  # of the finished run elsewhere: a file each, JSON
PICTURE_FOLDER = "pictures"  # of what the trained model made, PNG
EXPORT_FILES = ("ablab.json", "config.json")  # of what was exported of a run, in a folder of its own
PLAN_FILE = "plan.json"  # in a study's folder: every run of it, with its resolved config

_LONG_NUMBER = re.compile(rb"\d{19}")


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` so that a crash leaves either the old file or the new one, never a part."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path, put: Callable[[Path, Path], object] | None = None) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the place of `path` when the block ends, and is removed if it fails.

    Args:
        put: gives the file, which is on the disk by then, the name `path`; None: `os.replace`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives 0600, which colleagues could not read
        (put or os.replace)(Path(temporary), path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # as of a disk that is full
            error.filename = str(path)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Make a folder that takes the place of `path` when the block ends, and is removed if it fails.

    What is killed leaves a hidden folder beside it, which the next one removes.

    Raises:
        OSError: it is the working folder or one above: who stands there would go on in the old one, which is gone.
    """
    if Path.cwd().is_relative_to(path.resolve()):
        raise OSError(errno.EBUSY, "the working folder cannot be replaced: name another, or go elsewhere", str(path))
    new, old = (path.with_name(f".{path.name}.{kind}") for kind in ("new", "old"))
    remove(new)
    new.mkdir(parents=True)
    try:
        yield new
        for file in filter(Path.is_file, new.rglob("*")):
            os.chmod(file, 0o644)  # as `replacing` does
            with file.open("rb") as written:
                os.fsync(written.fileno())
        if os.path.lexists(path):
            remove(old)
            path.rename(old)
        new.rename(path)
    except BaseException:
        remove(new)
        if os.path.lexists(old) and not os.path.lexists(path):
            old.rename(path)
        raise
    remove(old)


def remove_orphans(folder: Path, names: Iterable[str]) -> None:
    """Remove what a process that was killed meant to put in the place of the files or folders `names`."""
    for name in names:
        for orphan in [*folder.glob(f".{name}"), *folder.glob(f".{name}.*")]:
            remove(orphan)


def write_record(folder: Path, record: Record) -> Path:
    """Write `record` into the run's folder, atomically. NaN and infinity become null, since JSON has neither."""
    path = folder / RECORD_FILE
    write_atomically(path, _as_text(record))
    return path


def add_record(folder: Path, record: Record) -> None:
    """Write `record` where there is none. Raises FileExistsError where there is: it may have been written just now."""
    with replacing(folder / RECORD_FILE, _add) as file:
        file.write(_as_text(record).encode())


def _add(temporary: Path, path: Path) -> None:
    path.hardlink_to(temporary)  # what has the name keeps it
    temporary.unlink()


def _as_text(written: Record | Evaluation) -> str:
    return json.dumps(finite(written.to_dict()), indent=1, allow_nan=False) + "\n"


def parse_json(text: bytes) -> Any:
    """Return what JSON holds. Raises ValueError for anything else: cut short, nested without end, not of this world.

    A number that no variable of 64 bits can hold is damage: what counts with it later would stop at it.
    """
    data = from_json(text)  # a third of the time of the standard library's, for thousands of records
    if _LONG_NUMBER.search(text):
        _refuse_long_numbers(data)
    return data


def _refuse_long_numbers(value: Any) -> None:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_long_numbers(item)
    elif isinstance(value, int) and abs(value) >= 2**64:
        raise ValueError(f"a number of {len(f'{value:x}')} hexadecimal digits")


def write_evaluation(run: Path, evaluation: Evaluation) -> Path:
    """Write an evaluation beside the record of its run, atomically; one of the same name is replaced.

    Raises:
        UserError: its folder is a link, through which it would be written elsewhere, or no folder.
    """
    folder = run / EVALUATION_FOLDER
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder}: is no folder of the run's own, and is left as it is; remove it")
    path = folder / file_name(evaluation.name)
    write_atomically(path, _as_text(evaluation))
    return path


def read_evaluations(run: Path, fingerprint: str) -> dict[str, Evaluation]:
    """The evaluations beside the record of a run, by name.

    Args:
        fingerprint: of the record.

    Raises:
        UserError: one of them cannot be read, or is another run's; the message names the file.
    """
    if not (folder := run / EVALUATION_FOLDER).is_dir():
        return {}
    files = sorted(folder.glob("*.json"))
    found = [as_evaluation(_read_json(path, "an evaluation"), path, fingerprint) for path in files]
    return {evaluation.name: evaluation for evaluation in found}


def read_record(path: Path) -> Record:
    """Return the record in the file `path`.

    Raises:
        UserError: no such file, not JSON, not a record, or of a newer schema; the message names the file.
    """
    return as_record(read_record_data(path), path)


def read_record_data(path: Path) -> Any:
    """Return the content of a record's file as it was written. Raises UserError: no such file, or not JSON."""
    return _read_json(path, "a record")


def _read_json(path: Path, what: str) -> Any:
    try:
        if path.exists() and not path.is_file():  # a pipe, which would be waited for, or a device
            raise UserError(f"{path}: not {what}")
        return parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(
            f"{path}: not {what} (damaged JSON: {error}); remove it, and the command that wrote it makes it anew"
        ) from error


def as_record(data: Any, source: Path) -> Record:
    """Return the record in `data`. Raises UserError, which names the `source`, for anything else."""
    if not isinstance(data, dict):
        raise UserError(f"{source}: not a record")
    try:
        return Record.from_dict(data)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def finite(value: Any) -> Any:
    """Data as JSON can hold it: null for NaN and infinity, which it has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def below(folder: Path, place: str) -> Path:
    """Return the folder of a run in a study's `folder`. Raises ValueError for one outside of it, by links or not."""
    path = folder / place
    if ".." in path.parts[len(folder.parts) :] or folder.resolve() not in path.resolve().parents:
        raise ValueError(f"a run outside the study: {place!r}")
    return path


def link_outside(folder: Path) -> Path | None:
    """Return a link in `folder` or below that leads out of it, if there is any: what is written there lands elsewhere.

    W&B's own folders are not looked into: they have such links, which it makes anew.
    """
    home = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                return path
        folders[:] = [name for name in folders if name != "wandb"]
    return None


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
