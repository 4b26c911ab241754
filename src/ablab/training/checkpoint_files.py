"""Files of checkpoints that a crash cannot damage, and that are known to be whole before they are used.

Two are kept, `last.ckpt` and `previous.ckpt`; each is a file, or a folder of files (`checkpoint_folders`).
`checksums.json` beside them lists what was written, so that one is whole exactly if its checksum is in the list. A
checksum is listed before its file takes the old one's place: whenever the process is killed, the file that has the name
is a whole and listed one; in the moment in which a folder takes another's place, `previous.ckpt` is.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections import OrderedDict
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import StateDict

from ablab.errors import UserError, one_line
from ablab.results.curves import rows_sha256
from ablab.results.store import METRICS_FILE, remove, replacing
from ablab.training.checkpoint_list import BEST, LAST, PREVIOUS, Entry, Origin, listed, sha256_of, write_list

OWN = {"owner": "ablab"}  # given to Lightning as options of the storage: what the run itself writes


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
        own = self.admit(checkpoint, target, storage_options)

        def put(temporary: Path, target: Path) -> None:
            put_in_place(temporary, target, self.origin, int(checkpoint["global_step"]), hashing.hexdigest())

        # Runs do not go on from what a callback of the user's writes.
        with replacing(target, put if own else None) as file:
            hashing = _write(checkpoint, file)

    def admit(self, checkpoint: StateDict, target: Path, storage_options: Any) -> bool:
        """Whether the run itself writes this checkpoint, from which it may then go on.

        Raises:
            UserError: somebody else would write to a name of the run's own, or it could not be read again.
        """
        own = storage_options is OWN or (self.folder is None and target.name == LAST)
        if not own and target.parent == self.folder and target.name in (LAST, PREVIOUS, BEST):
            raise UserError(f"{target}: is the run's own; give the callback that writes it another dirpath or filename")
        for name, state in checkpoint.get("callbacks", {}).items():
            check_readable(f"callbacks, {name}", state)
        return own


def check_readable(name: str, state: Any) -> None:
    """Raises UserError for a state that holds what a checkpoint, which is read as data alone, could not give back."""
    kept = io.BytesIO()
    try:
        torch.save(_without_numbers(state), kept)
        kept.seek(0)
        torch.load(kept, weights_only=True)
    except Exception as error:  # of whatever the state holds
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f"it holds {found[1]}" if found else one_line(error)
        raise UserError(
            f"{name}: its state_dict cannot be kept in a checkpoint ({held}): give numbers, texts, lists, dicts and "
            "tensors"
        ) from error


def _without_numbers(state: Any) -> Any:
    """The state with tensors that hold nothing: whether it can be read is a question of types, and not of gigabytes."""
    if type(state) in (Tensor, Parameter) and state.layout is torch.strided and not state.is_quantized:
        empty = torch.empty(0, dtype=state.dtype)
        return empty if type(state) is Tensor else Parameter(empty, requires_grad=False)
    if type(state) is dict or type(state) is OrderedDict:
        return type(state)((key, _without_numbers(each)) for key, each in state.items())
    return type(state)(map(_without_numbers, state)) if type(state) in (list, tuple) else state


def put_in_place(temporary: Path, target: Path, origin: Origin, step: int, checksum: str | None = None) -> None:
    """List what was written to `temporary`, and give it the name `target`; what has it becomes `previous.ckpt`.

    Folders cannot be replaced in one step: for a moment nothing may have the name, and `previous.ckpt` is whole.

    Args:
        checksum: of what was written; None: to be computed.
    """
    rows, sha256 = rows_sha256(target.parent.parent / METRICS_FILE)
    entry = Entry(
        sha256=checksum or sha256_of(temporary),
        step=step,
        rows=rows,
        rows_sha256=sha256 if rows else None,
        **asdict(origin),
    )
    write_list(target.parent, [entry, *listed(target.parent)])
    previous = target.with_name(PREVIOUS)
    if target.is_dir():
        rename_over(target, previous)
    elif target.exists():
        if previous.is_dir():
            shutil.rmtree(previous)
        link(target, previous)
    rename_over(temporary, target)


def name_best(folder: Path, step: int, checked: bool = True) -> None:
    """Give the checkpoint of `step` the further name `best.ckpt`.

    Args:
        checked: find out which file that is; False: it is `last.ckpt`, written a moment ago.
    """
    entries = listed(folder)
    of_step = {entry.sha256 for entry in entries if entry.step == step}
    names = [name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    name = next((each for each in names if sha256_of(folder / each) in of_step), None) if checked else LAST
    if name is not None:
        write_list(folder, [replace(entry, best=entry.best or entry.step == step) for entry in entries])
        link(folder / name, folder / BEST)


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


def rename_over(source: Path, target: Path) -> None:
    """Rename, in place of whatever had the name, a file or a folder."""
    if target.is_dir() or (source.is_dir() and target.exists()):
        old = target.with_name(f".{target.name}.old")
        remove(old)
        target.rename(old)
        source.rename(target)
        remove(old)
    else:
        source.replace(target)


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
    rename_over(temporary, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


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
