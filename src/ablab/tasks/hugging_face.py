"""What comes from Hugging Face: its libraries, which not everybody needs, and the documents of a data set."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from ablab.errors import UserError, one_line
from ablab.tasks.plain_files import holds_outputs
from ablab.tasks.tables import Row

_COMMIT = re.compile("[0-9a-f]{40}")
# What `save_to_disk` leaves in a folder, and no other format does.
_SAVED_DICT, _SAVED_ONE = "dataset_dict.json", "state.json"

# What the libraries of Hugging Face read when they are imported; who has set one of these otherwise knows why.
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "TOKENIZERS_PARALLELISM": "true",  # else it warns of every worker that is forked; no worker makes tokens
}


def library(name: str) -> ModuleType:
    """Import the module `name` of the extra `hf`. Raises UserError if it is not installed."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"this needs the library {name}: pip install 'ablab[hf]'") from error


class DocumentSource:
    """The documents of a data set, streamed: never more of it in memory than the library reads at once.

    Args:
        path: a folder with what `datasets.load_dataset` takes (parquet, JSON lines, CSV, text, ...) or what
            `save_to_disk` wrote; else the name of a data set on the hub.
        name: which of its configurations; None where there is one.
        revision: branch, tag or commit on the hub; None for the newest. With a full commit, what is kept of the data
            set is found without the network.
        column: where the text is.

    Raises:
        UserError: there is no such folder, runs write below it, or a setting means nothing to it.
    """

    def __init__(self, path: str, *, name: str | None, revision: str | None, column: str) -> None:
        self.path, self.name, self.revision, self.column = path, name, revision, column
        self.folder = Path(os.path.expanduser(path))
        self._local = self.folder.is_dir()
        if self.folder.is_file():
            raise UserError(f"{path}: a file: give the folder that it lies in as task.path")
        if not self._local and path.startswith((".", "/", "~")):
            raise UserError(f"{path}: no such folder: mend task.path")
        if self._local and holds_outputs(self.folder):  # the library would read them, more with every run
            raise UserError(f"{path}: holds outputs, where runs write: put the data in a folder of their own")
        if self._local and revision is not None:
            raise UserError(f"{path}: a folder has no task.revision={revision}: leave it out")
        if self._saved and name is not None:
            raise UserError(f"{path}: what save_to_disk wrote has no configurations: leave out task.name={name}")

    @cached_property
    def identity(self) -> dict[str, str | None]:
        """What the documents are a function of: a hash of the folder's files, or the commit on the hub."""
        if self._local:
            return {"files": _hash_of(self.folder), "name": self.name}
        commit = self.revision if self.revision and _COMMIT.fullmatch(self.revision) else self._builder.hash
        return {"hub": self.path, "commit": commit, "name": self.name}

    def __str__(self) -> str:
        named = self.path if self.name is None else f"{self.path}/{self.name}"
        return named if self._local else f"{named}@{self.identity['commit']}"

    def documents(self, split: str, setting: str) -> Iterator[str]:
        """The texts of a split in its order; what is empty is passed over.

        Args:
            setting: that named the split, for the message.

        Raises:
            UserError: there is no such split or column, or the data cannot be read.
        """
        if split not in self._splits:
            raise UserError(f"{self.path}: has the splits {', '.join(self._splits)}, not {split}: mend {setting}")
        try:
            for row in self._splits[split]:
                text = row[self.column] if self.column in row else self._no_column(row)
                if text is not None and not isinstance(text, str):
                    raise UserError(
                        f"{self.path}: the column {self.column} holds {type(text).__name__}, not text: "
                        "mend task.text_column"
                    )
                if text := (text or "").removeprefix("\ufeff"):  # a byte order mark, which is no character
                    yield text
        except UserError:
            raise
        except Exception as error:  # of the format, the disk or the network, each with classes of its own
            raise UserError(
                f"{self.path}: the split {split} cannot be read ({one_line(error)}): mend its files, or the network"
            ) from error

    @property
    def _saved(self) -> bool:
        return any((self.folder / name).is_file() for name in (_SAVED_DICT, _SAVED_ONE))

    @cached_property
    def _splits(self) -> Mapping[str, Iterable[Row]]:
        if not self._saved:
            try:
                return dict(self._builder.as_streaming_dataset())
            except Exception as error:
                raise self._refused(error) from error
        try:
            saved = _datasets().load_from_disk(str(self.folder))
        except Exception as error:
            raise self._refused(error) from error
        return dict(saved) if (self.folder / _SAVED_DICT).is_file() else {"train": saved}

    @cached_property
    def _builder(self) -> Any:
        try:
            where = str(self.folder) if self._local else self.path
            return _datasets().load_dataset_builder(where, self.name, revision=self.revision)
        except UserError:
            raise
        except Exception as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> UserError:
        if self._local:
            return UserError(
                f"{self.path}: cannot be loaded as a data set ({one_line(error)}): give a folder with parquet, "
                "JSON lines, CSV or text files, or what save_to_disk wrote"
            )
        return UserError(
            f"{self.path}: no folder here, and cannot be had from the Hugging Face hub ({one_line(error)}): mend "
            "task.path, task.name or task.revision, or see to the network and HF_HUB_OFFLINE"
        )

    def _no_column(self, row: Row) -> str:
        raise UserError(f"{self.path}: has the columns {', '.join(row)}, not {self.column}: mend task.text_column")


def _datasets() -> ModuleType:
    """The library, told to be quiet."""
    datasets = library("datasets")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every attempt
    return datasets


def _hash_of(folder: Path) -> str:
    """SHA-256 over the names and contents of the files below the folder that are not hidden, in order."""
    digest = hashlib.sha256()
    names = {path.relative_to(folder): path for path in _visible_files(folder)}
    for name in sorted(names, key=Path.as_posix):
        digest.update(hashlib.sha256(name.as_posix().encode("utf-8", errors="surrogateescape")).digest())
        try:
            with names[name].open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{names[name]}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _visible_files(folder: Path) -> Iterator[Path]:
    """Those below links to folders, too, which the library follows by name; but for links back to a folder above."""
    for where, folders, names in os.walk(folder, followlinks=True):
        here = Path(where)
        above = {os.path.realpath(each) for each in (here, *here.absolute().parents)}
        folders[:] = (name for name in folders if os.path.realpath(here / name) not in above and name[0] != ".")
        yield from (path for name in names if name[0] != "." and (path := here / name).is_file())
