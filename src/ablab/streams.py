"""Standard output that outlasts whoever reads it: a pipe that was closed, a full disk, a terminal of ASCII alone.

What a command has trained and written must not hang on what it says of it. So a stream that cannot be written to any
more is written to no more, and the command goes on; how it ended is asked for at the end.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

said = threading.Event()  # whether this process has written anything to a lasting stream


class Lasting:
    """A text stream that never raises. What its encoding lacks is written as an escape, `\\u25b2`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        said.set()
        if self.failed is None:
            try:
                self._write(text)
            except OSError as error:
                self.failed = error
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError as error:
            self.stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.failed is None:
            try:
                self.stream.flush()
            except OSError as error:
                self.failed = error

    def let_go(self) -> None:
        """Write out what is left; what cannot be is dropped, or the interpreter would try again as it ends."""
        self.flush()
        if self.failed is not None:
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w", encoding="utf-8") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def lasting_output() -> Iterator[Lasting]:
    """Within it, standard output and error are `Lasting`; the first of them is the value."""
    _open_closed()
    out, err = Lasting(sys.stdout), Lasting(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        for each in (out, err):
            each.let_go()
        sys.stdout, sys.stderr = out.stream, err.stream


def _open_closed() -> None:
    """Let the streams of a process that was started without them, as by a daemon, lead nowhere.

    The next file that is opened would otherwise take the number of one, and be written to by whoever prints.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # takes the least number that is free, which is this one
            os.set_inheritable(nowhere, True)  # as these are: processes that are started have them, too
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if fd == 0 else "w", encoding="utf-8"))  # noqa: SIM115
