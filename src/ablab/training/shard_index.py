"""The index of a checkpoint in shards, `.metadata`, read as data: it is a pickle, and a pickle can run code.

It is unpickled into plain records of names, arguments and states, whatever class they were of, and no class or function
that the file names is ever looked up. What the records say is then checked, and made into PyTorch's own classes.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

INDEX = ".metadata"
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Stored:
    """Where the bytes of a tensor lie, in the words that PyTorch's reader asks for."""

    relative_path: str  # of a file in the checkpoint's folder
    offset: int  # bytes
    length: int
    transform_descriptors: None = None  # files are as they were written


class SafeReader(dcp.FileSystemReader):
    """PyTorch's reader of a folder, but that nothing in the folder is unpickled.

    Raises:
        UnpicklingError, OSError: the folder's index is damaged, or not what ablab writes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._index = read_index(folder / INDEX)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self._index.storage_meta = StorageMeta(load_id=self.load_id)
        return self._index


def read_index(path: Path) -> Metadata:
    """Return what an index says of tensors and of the files that they lie in.

    Raises:
        OSError: it cannot be read.
        UnpicklingError: it is damaged, or holds what ablab does not write: objects, or files elsewhere.
    """
    try:
        with path.open("rb") as file:
            told = _state(_Unpickler(file).load(), "Metadata")
        return Metadata(
            state_dict_metadata={_typed(key, str): _tensor(each) for key, each in told["state_dict_metadata"].items()},
            storage_data={_place(key): _file(each) for key, each in told["storage_data"].items()},
        )
    except _MALFORMED as error:
        raise pickle.UnpicklingError(f"{INDEX} is not the index of a checkpoint ({error})") from error


class _Record:
    """Stands for an object of a pickle: takes whatever it was made of, and does nothing."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any, **_: Any) -> _Record:
        made = object.__new__(cls)
        made.arguments = arguments
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Record]:
        """A class of its own for each mention, so that a pickle that changes one changes nothing else."""
        return type(name, (_Record,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"it refers to {pid!r:.40}")


def _state(record: Any, name: str) -> dict[str, Any]:
    if type(record).__name__ != name:
        raise ValueError(f"{type(record).__name__} in the place of {name}")
    state: dict[str, Any] = _typed(record.state, dict)
    return state


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{type(value).__name__} in the place of {kind.__name__}")
    return value


def _size(record: Any) -> torch.Size:
    [numbers] = record.arguments
    return torch.Size([_typed(number, int) for number in numbers])


def _tensor(record: Any) -> TensorStorageMetadata:
    told = _state(record, "TensorStorageMetadata")
    dtype = getattr(torch, told["properties"].state[0].__name__, None)
    chunks = [_state(each, "ChunkStorageMetadata") for each in _typed(told["chunks"], list)]
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=_typed(dtype, torch.dtype)),
        size=_size(told["size"]),
        chunks=[ChunkStorageMetadata(offsets=_size(each["offsets"]), sizes=_size(each["sizes"])) for each in chunks],
    )


def _place(record: Any) -> MetadataIndex:
    told = _state(record, "MetadataIndex")
    offset, index = told.get("offset"), told.get("index")
    return MetadataIndex(
        _typed(told["fqn"], str),
        None if offset is None else _size(offset),
        None if index is None else _typed(index, int),
    )


def _file(record: Any) -> Stored:
    told = _state(record, "_StorageInfo")
    name = _typed(told["relative_path"], str)
    if name in ("", ".", "..") or Path(name).name != name:
        raise ValueError(f"a file outside of the checkpoint: {name!r}")
    if told.get("transform_descriptors"):
        raise ValueError("files that are transformed")
    return Stored(name, _typed(told["offset"], int), _typed(told["length"], int))
