"""Files of checkpoints that a crash cannot damage, and that are known to be whole before they are used.

Two are kept, `last.ckpt` and `previous.ckpt`; each is a file, or a folder of files (`checkpoint_folders`).
`checksums.json` beside them lists what was written, so that one is whole exactly if its checksum is in the list. A
checksum is listed before its file takes the old one's place: whenever the process is killed, the file that has the name
is a whole and listed one; in the moment in which a folder takes another's place, `previous.ckpt` is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch.optim.optimizer import StateDict

from ablab.errors import UserError
from ablab.results.store import CHECKSUM_FILE, remove_orphans, write_atomically

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
OWN = {"owner": "ablab"}  # given to Lightning as options of the storage: what the run itself writes
_LISTED = 4  # the last ones; two of them are on the disk, and one may be about to be


@dataclass(frozen=True)
class Origin:
    """What a checkpoint belongs to. It is of no use to another run, nor to this one on other data."""

    run: str  # the fingerprint of the config
    corpus: str  # the hash of the data


@dataclass(frozen=True)
class Entry(Origin):
    """A checkpoint that was written."""

    sha256: str
    step: int


@dataclass(frozen=True)
class Found:
    """A whole checkpoint to go on from."""

    path: Path
    step: int


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk and renames; a `last.ckpt` that was there becomes `previous.ckpt`.

    Lightning's own writes go through the system's temporary folder, from where a move to another file system is not
    atomic.

    Args:
        folder: of the run's own checkpoints, which no callback of the user's may write to under their names; None where
            nobody else writes.
    """

    def __init__(self, origin: Origin, folder: Path | None = None) -> None:
        super().__init__()
        self.origin, self.folder = origin, folder

    def save_checkpoint(self, checkpoint: StateDict, path: str | Path, storage_options: Any = None) -> None:
        target = Path(path)
        own = storage_options is OWN or (self.folder is None and target.name == LAST)
        if not own and target.parent == self.folder and target.name in (LAST, PREVIOUS, BEST):
            raise UserError(f"{target}: is the run's own; give the callback that writes it another dirpath or filename")
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                hashing = _write(checkpoint, file)
            os.chmod(temporary, 0o644)
            if not own:  # of a callback of the user's; runs do not go on from it
                os.replace(temporary, target)
                return
            put_in_place(Path(temporary), target, self.origin, int(checkpoint["global_step"]), hashing.hexdigest())
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def put_in_place(temporary: Path, target: Path, origin: Origin, step: int, checksum: str | None = None) -> None:
    """List what was written to `temporary`, and give it the name `target`; what has it becomes `previous.ckpt`.

    Folders cannot be replaced in one step: for a moment nothing may have the name, and `previous.ckpt` is whole.

    Args:
        checksum: of what was written; None: to be computed.
    """
    entry = Entry(sha256=checksum or _sha256(temporary), step=step, **asdict(origin))
    entries = [entry, *_listed(target.parent)][:_LISTED]
    write_atomically(target.parent / CHECKSUM_FILE, json.dumps([asdict(each) for each in entries], indent=1))
    previous = target.with_name(PREVIOUS)
    if target.is_dir():
        _replace(target, previous)
    elif target.exists():
        if previous.is_dir():
            shutil.rmtree(previous)
        link(target, previous)
    _replace(temporary, target)


def write_file(content: Any, path: Path) -> None:
    """Write beside the target, flush to disk and rename."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        _write(content, file)
    temporary.replace(path)


def _write(content: Any, file: IO[bytes]) -> _Hashing:
    hashing = _Hashing(file)
    torch.save(content, hashing)  # type: ignore[arg-type] # it only writes
    file.flush()
    os.fsync(file.fileno())
    return hashing


def _replace(source: Path, target: Path) -> None:
    """Rename, in place of whatever had the name."""
    if target.is_dir() or (source.is_dir() and target.exists()):
        old = target.with_name(f".{target.name}.old")
        _remove(old)
        target.rename(old)
        source.rename(target)
        _remove(old)
    else:
        source.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def newest_whole(folder: Path, origin: Origin) -> tuple[Found | None, list[str]]:
    """The newest whole checkpoint of `origin` in `folder`, if there is any, and a line on each that is damaged.

    What a killed process was about to write is removed.
    """
    remove_orphans(folder, (CHECKSUM_FILE, LAST, PREVIOUS, BEST))
    listed = {entry.sha256: entry for entry in _listed(folder)}
    damaged: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not (path.is_file() or path.is_dir()):
            continue
        entry = listed.get(_sha256(path))
        if entry is not None and (entry.run, entry.corpus) == (origin.run, origin.corpus):
            return Found(path, entry.step), damaged
        if entry is None:
            damaged.append(f"{folder.name}/{name} is damaged (its checksum is not that of what was written)")
    return None, damaged


def link(source: Path, target: Path) -> None:
    """Give the file or folder `source` the further name `target`; where there are no hard links, copy it.

    A file is there at any moment, the old one or the new one.
    """
    temporary = target.with_name(f".{target.name}")
    _remove(temporary)
    if source.is_dir():
        shutil.copytree(source, temporary, copy_function=_link_file)
    else:
        _link_file(source, temporary)
    _replace(temporary, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _listed(folder: Path) -> list[Entry]:
    path = folder / CHECKSUM_FILE
    try:
        return [Entry(**each) for each in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []
    except (ValueError, TypeError):
        print(f"{path}: damaged, so no checkpoint beside it can be trusted", file=sys.stderr)
        return []


def _sha256(path: Path) -> str:
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        names = [f"{each.relative_to(path)} {_sha256(each)}" for each in files]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Hashing:
    """A file to write to, and the checksum of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
