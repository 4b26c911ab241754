"""Files as data are read from them: plain ones alone, so that no read waits for what never comes."""

from __future__ import annotations

import errno
import stat
from pathlib import Path


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
