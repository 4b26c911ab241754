"""Files as data are read from them: plain ones alone, so that no read waits for what never comes, and each once."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ablab.results.find import file_identity

_OUTPUTS = "outputs"  # of the working directory: where runs write


def read_plain(path: Path) -> bytes:
    """The bytes of a file. Raises OSError for a pipe, a device or a socket, and whatever reading does.

    One that says that it holds nothing is not opened: files of the kernel say so, and reading some of them never ends.
    """
    return path.read_bytes() if check_plain(path) else b""


def check_plain(path: Path) -> int:
    """The size of a file in bytes. Raises OSError where it is none, or is a pipe, a device or a socket."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return status.st_size


def once(paths: Iterable[Path], root: Path) -> list[Path]:
    """Each file by the first of the names that lead to it, links of both kinds among them: by two, it could be in two
    splits.

    Of a folder above the one that runs write to, none of those: they are more with every run.
    """
    first: dict[object, Path] = {}
    for path in sorted(paths, key=Path.as_posix):
        first.setdefault(file_identity(path), path)
    if not holds_outputs(root):
        return [*first.values()]
    written = _prefix(_OUTPUTS)
    return [path for path in first.values() if not os.path.realpath(path).startswith(written)]


def holds_outputs(root: Path) -> bool:
    """Whether the folder that runs write to lies below `root`, or will."""
    return (written := _prefix(_OUTPUTS)) != (below := _prefix(root)) and written.startswith(below)


def _prefix(folder: str | Path) -> str:
    return os.path.join(os.path.realpath(folder), "")
