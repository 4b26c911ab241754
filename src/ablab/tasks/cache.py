"""What is expensive to make, kept on disk: arrays in a folder named by a hash of what they depend on.

An entry is written beside its place and moved there whole, so that nobody meets half of one. A manifest with the
checksum of every array comes with it; an entry that does not agree with it is made again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

_MANIFEST = "manifest.json"
_FORMAT = 1  # of an entry; another one is another key
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`$ABLAB_CACHE`, or `ablab` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`).

    Raises:
        FileNotFoundError: the user has no home, and no other place is named.
    """
    own = os.environ.get("ABLAB_CACHE")
    folder = own or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ablab")
    found = os.path.expanduser(folder)
    if found.startswith("~"):
        raise FileNotFoundError(errno.ENOENT, "there is no home folder; set ABLAB_CACHE", folder)
    return Path(found)


def cached(kind: str, depends_on: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make` gives, from the disk if they were made before.

    Args:
        kind: what they are, in one word; the folder's.
        depends_on: everything they are a function of, as JSON takes it. Of files that is a hash of their content.
        make: makes them, by names that can be names of files.

    Returns:
        Arrays that cannot be written to. Large ones stay on the disk until they are looked at.
    """
    described = json.dumps([_FORMAT, kind, depends_on], sort_keys=True)
    place = f"{kind}/{hashlib.sha256(described.encode()).hexdigest()[:24]}"
    with contextlib.suppress(FileNotFoundError):
        if (arrays := _read(cache_folder() / place)) is not None:
            return arrays
    made = make()
    try:
        folder = cache_folder() / place
        _write(folder, made)
        return _read(folder) or made
    except OSError as error:  # a full or read-only disk costs time the next time, and nothing else
        _log.warning("%s: cannot be kept (%s)", error.filename or place, error.strerror)
    return made


def _read(folder: Path) -> Arrays | None:
    """The entry; None if there is none, or it is damaged."""
    if not os.path.isdir(folder):  # False of what may not be looked into, too
        return None
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        arrays: Arrays = {}
        for name, checksum in manifest.items():
            path = folder / f"{name}.npy"
            if _checksum(path) != checksum:
                raise ValueError(f"{path.name} has changed")
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, AttributeError) as error:
        _log.warning("%s: damaged, and made again (%s)", folder, error)
        return None
    return arrays


def _write(folder: Path, arrays: Arrays) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        manifest = {}
        for name, array in arrays.items():
            path = temporary / f"{name}.npy"
            with path.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            manifest[name] = _checksum(path)
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was there first, with the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
