"""Checkpoints in shards: a folder to which every process writes what it holds, by PyTorch's distributed checkpoint.

`rest.pt` holds all that is not in shards, with a note in the place of each shard. However many processes wrote the
folder, any number can read it, each of them what it holds; and one alone can read it whole.
"""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.optim.optimizer import StateDict

from ablab.errors import UserError
from ablab.results.run_folder import check_ours
from ablab.results.store import CHECKPOINT_FOLDER, CONFIG_FILE
from ablab.training.checkpoint_files import AtomicCheckpointIO, put_in_place, rename_over, write_file
from ablab.training.checkpoint_list import Origin, check_whole
from ablab.training.shard_index import SafeReader

REST = "rest.pt"
_SHARD = "piece of"  # as files have called it from the beginning

# Makes what a shard is read into, from the name of its parameter, the shape of the whole, and its type.
Place = Callable[[str, torch.Size, torch.dtype], Tensor]


@dataclass(frozen=True)
class Shard:
    """A tensor in shards, in a checkpoint that is to be written.

    Attributes:
        tensor: a distributed tensor.
        parameter: the name of the model's parameter that is cut in the same way.
    """

    tensor: Tensor
    parameter: str


class CheckpointFiles(AtomicCheckpointIO):
    """Writes files, and reads whatever is there, whole: a run may go on with another strategy than it began with."""

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> StateDict:
        if Path(path).is_dir():
            return read_folder(Path(path))
        checkpoint: StateDict = super().load_checkpoint(path, map_location, weights_only=True)  # whatever was asked
        return checkpoint

    def save_shards(self, checkpoint: StateDict, path: str | Path, storage_options: Any = None) -> None:
        """As `save_checkpoint` does, but a folder to which every process writes its shards; all of them call it."""
        own = self.admit(checkpoint, Path(path), storage_options)
        write_folder(checkpoint, Path(path), self.origin if own else None)


def write_folder(checkpoint: StateDict, target: Path, origin: Origin | None) -> None:
    """Write beside the target, flush to disk and rename. Every process of the run calls it.

    Args:
        origin: what was there becomes `previous.ckpt`, and runs go on from what is written; None: neither.
    """
    temporary = target.with_name(f".{target.name}.new")
    first = dist.get_rank() == 0
    if first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    shards: dict[str, Tensor] = {}
    rest = _taken_out(checkpoint, shards, "")
    with _quiet():
        dcp.save(shards, storage_writer=dcp.FileSystemWriter(temporary, sync_files=True))
    if first:
        write_file(rest, temporary / REST)
        if origin is None:
            rename_over(temporary, target)
        else:
            put_in_place(temporary, target, origin, int(checkpoint["global_step"]))
    dist.barrier()


def read_folder(folder: Path, place: Place | None = None) -> StateDict:
    """The checkpoint in a folder.

    Args:
        place: where what this process holds goes, and then every process of the run calls it; None: whole tensors.

    Raises:
        RuntimeError, OSError, EOFError, UnpicklingError, CheckpointException: it is damaged.
    """
    rest = _load(folder / REST)
    shards: dict[str, Tensor] = {}
    _make_room(rest, shards, place or (lambda parameter, shape, dtype: torch.empty(shape, dtype=dtype)))
    with _quiet():
        dcp.load(shards, storage_reader=SafeReader(folder), no_dist=place is None)
    checkpoint: StateDict = _put_back(rest, shards)
    return checkpoint


def read_checkpoint(path: Path) -> StateDict:
    """A checkpoint, whole, whether it is a file or a folder.

    Raises:
        UserError: it is damaged, or not what was written.
    """
    check_whole(path)
    try:
        if path.is_dir():
            return read_folder(path)
        checkpoint = _load(path)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, CheckpointException) as error:
        reason = (str(error) or "it ends too early").splitlines()[0]
        raise UserError(f"{path}: a damaged checkpoint ({reason})") from error
    return checkpoint


def consolidate(run: Path, checkpoint: str = "best") -> Path:
    """Write the checkpoint of a run that is in shards as one file beside it, `best.full.ckpt` or `last.full.ckpt`.

    Returns:
        The file, which is the checkpoint itself where that is one file already.

    Raises:
        UserError: the folder holds no run, or the run has no such checkpoint, or the checkpoint is damaged.
    """
    path = find_checkpoint(run, checkpoint)
    whole = read_checkpoint(path)
    if path.is_file():
        return path
    target = path.with_suffix(".full.ckpt")
    write_file(whole, target)
    return target


def find_checkpoint(run: Path, checkpoint: str) -> Path:
    """The checkpoint "best" or "last" of a run. Raises UserError if there is no run, or none of this name in it."""
    if not (run / CONFIG_FILE).is_file():
        raise UserError(f"{run}: not the folder of a run (no {CONFIG_FILE} in it)")
    check_ours(run)
    path = run / CHECKPOINT_FOLDER / f"{checkpoint}.ckpt"
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{run}: has no checkpoint {checkpoint}.ckpt; did the run get to its first evaluation?")
    return path


def _taken_out(value: Any, shards: dict[str, Tensor], name: str) -> Any:
    if isinstance(value, Shard):
        shards[name] = value.tensor
        kind = str(value.tensor.dtype).removeprefix("torch.")
        return {_SHARD: value.parameter, "name": name, "shape": list(value.tensor.shape), "dtype": kind}
    if isinstance(value, Mapping):
        return {key: _taken_out(each, shards, f"{name}/{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_taken_out(each, shards, f"{name}/{index}") for index, each in enumerate(value)])
    return value


def _make_room(value: Any, shards: dict[str, Tensor], place: Place) -> None:
    if isinstance(value, dict) and _SHARD in value:
        dtype = getattr(torch, value["dtype"], None)
        if not isinstance(dtype, torch.dtype):
            raise RuntimeError(f"{value['dtype']!r:.40} is no type of a tensor")
        shards[value["name"]] = place(value[_SHARD], torch.Size(value["shape"]), dtype)
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            _make_room(each, shards, place)


def _put_back(value: Any, shards: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _SHARD in value:
            return shards[value["name"]]
        return {key: _put_back(each, shards) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_put_back(each, shards) for each in value])
    return value


def _load(path: Path) -> StateDict:
    with _quiet():
        content: StateDict = torch.load(path, map_location="cpu", weights_only=True)
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Torch's own remarks: that no process group is meant to be there, and about a type of its own that is to go.
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated.*")
        # Of a file that it then refuses.
        warnings.filterwarnings("ignore", message=".*Detected pickle protocol.*")
        yield
