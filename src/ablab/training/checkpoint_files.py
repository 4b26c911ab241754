"""Files of checkpoints that a crash cannot damage, and that are known to be whole before they are used.

Two are kept, `last.ckpt` and `previous.ckpt`; each is a file, or a folder of files (`checkpoint_folders`).
`checksums.json` beside them lists what was written, so that one is whole exactly if its checksum is in the list. A
checksum is listed before its file takes the old one's place: whenever the process is killed, the file that has the name
is a whole and listed one; in the moment in which a folder takes another's place, `previous.ckpt` is.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch.optim.optimizer import StateDict

from ablab.errors import UserError, one_line
from ablab.results.store import CHECKSUM_FILE, parse_json, remove, remove_orphans, replacing, write_atomically

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
OWN = {"owner": "ablab"}  # given to Lightning as options of the storage: what the run itself writes
_LISTED_BEST = 2  # of those with the best metric: the one that has the name, and one that may be about to
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
    best: bool = False  # whether it was named `best.ckpt`, and so outlives those that were written later


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
        for name, state in checkpoint.get("callbacks", {}).items():
            check_readable(f"callbacks, {name}", state)

        def put(temporary: Path, target: Path) -> None:
            put_in_place(temporary, target, self.origin, int(checkpoint["global_step"]), hashing.hexdigest())

        # Runs do not go on from what a callback of the user's writes.
        with replacing(target, put if own else None) as file:
            hashing = _write(checkpoint, file)


def check_readable(name: str, state: Any) -> None:
    """Raises UserError for a state that holds what a checkpoint, which is read as data alone, could not give back."""
    kept = io.BytesIO()
    try:
        torch.save(state, kept)
        kept.seek(0)
        torch.load(kept, weights_only=True)
    except Exception as error:  # of whatever the state holds
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f"it holds {found[1]}" if found else one_line(error)
        raise UserError(
            f"{name}: its state_dict cannot be kept in a checkpoint ({held}): give numbers, texts, lists, dicts and "
            "tensors"
        ) from error


def put_in_place(temporary: Path, target: Path, origin: Origin, step: int, checksum: str | None = None) -> None:
    """List what was written to `temporary`, and give it the name `target`; what has it becomes `previous.ckpt`.

    Folders cannot be replaced in one step: for a moment nothing may have the name, and `previous.ckpt` is whole.

    Args:
        checksum: of what was written; None: to be computed.
    """
    entry = Entry(sha256=checksum or _sha256(temporary), step=step, **asdict(origin))
    _list(target.parent, [entry, *_listed(target.parent)])
    previous = target.with_name(PREVIOUS)
    if target.is_dir():
        _replace(target, previous)
    elif target.exists():
        if previous.is_dir():
            shutil.rmtree(previous)
        link(target, previous)
    _replace(temporary, target)


def name_best(folder: Path, step: int, checked: bool = True) -> None:
    """Give the checkpoint of `step` the further name `best.ckpt`.

    Args:
        checked: find out which file that is; False: it is `last.ckpt`, written a moment ago.
    """
    entries = _listed(folder)
    of_step = {entry.sha256 for entry in entries if entry.step == step}
    names = [name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    name = next((each for each in names if _sha256(folder / each) in of_step), None) if checked else LAST
    if name is not None:
        _list(folder, [replace(entry, best=entry.best or entry.step == step) for entry in entries])
        link(folder / name, folder / BEST)


def _list(folder: Path, entries: Sequence[Entry]) -> None:
    """Write the list of what was written, as far as it is on the disk or about to be."""
    best = [entry for entry in entries if entry.best][:_LISTED_BEST]
    kept = [entry for place, entry in enumerate(entries) if place < _LISTED or entry in best]
    if (folder / CHECKSUM_FILE).is_dir():  # damage; nothing of a run's own
        remove(folder / CHECKSUM_FILE)
    write_atomically(folder / CHECKSUM_FILE, json.dumps([asdict(each) for each in kept], indent=1))


def check_whole(path: Path) -> None:
    """Raises UserError if a checkpoint is not what was written, as far as the list beside it tells.

    Where there is no list, as in a folder that was copied without it, there is nothing to compare with.
    """
    checksums = path.with_name(CHECKSUM_FILE)
    if not checksums.exists():
        return
    listed = _read_list(path.parent)
    if listed is None:
        raise UserError(f"{checksums}: damaged, so that {path.name} cannot be checked; remove it to use it unchecked")
    # Versions before did not list the best one for good.
    unknown = path.name == BEST and not any(entry.best for entry in listed)
    if not unknown and _sha256(path) not in {entry.sha256 for entry in listed}:
        raise UserError(f"{path}: a damaged checkpoint (its checksum is not that of what was written)")


def newest_listed(folder: Path, run: str) -> int | None:
    """The step of the newest checkpoint of a run that was written in `folder`; None if none is listed."""
    return max((entry.step for entry in _listed(folder) if entry.run == run), default=None)


def write_file(content: Any, path: Path) -> None:
    """Write beside the target, flush to disk and rename."""
    with replacing(path) as file:
        _write(content, file)


def _write(content: Any, file: IO[bytes]) -> _Hashing:
    hashing = _Hashing(file)
    try:
        torch.save(content, hashing)  # type: ignore[arg-type] # it only writes
    except RuntimeError as error:  # of torch's own words for whatever its file raised
        raise (hashing.failed or error) from error
    return hashing


def _replace(source: Path, target: Path) -> None:
    """Rename, in place of whatever had the name."""
    if target.is_dir() or (source.is_dir() and target.exists()):
        old = target.with_name(f".{target.name}.old")
        remove(old)
        target.rename(old)
        source.rename(target)
        remove(old)
    else:
        source.replace(target)


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
    remove(temporary)
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
    entries = _read_list(folder)
    if entries is None:
        print(f"{folder / CHECKSUM_FILE}: damaged, so no checkpoint beside it can be trusted", file=sys.stderr)
    return entries or []


def _read_list(folder: Path) -> list[Entry] | None:
    """What is listed, nothing where there is no list; None where it is damaged."""
    try:
        found = parse_json((folder / CHECKSUM_FILE).read_bytes())
        entries = [Entry(**each) for each in found]
        return entries if all(type(entry.step) is int for entry in entries) else None
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        return None


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
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        self._hash.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
