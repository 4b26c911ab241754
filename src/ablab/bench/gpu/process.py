"""A step's process: it writes to the log, is ended in time with all that it has started, and dies with its starter."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

FAREWELL_S = 6.0  # for a process that was asked to end to write what it has
_STUBBORN_S = 5.0  # for one that was killed: a driver can hold it, and is not waited for
_LOOK_S = 0.5


class StepProcess:
    """A command under `guard`, in a session of its own.

    Args:
        words: of the command, with Python's own path in front.
        folder: that it works in.
        log: takes what it prints, at the end.
    """

    def __init__(self, words: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        self._began = time.monotonic()
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ablab.bench.gpu.guard", *words],
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait(self, limit_s: float, look: Callable[[], object] = lambda: None) -> int | None:
        """Return its exit status, or None if it has not ended in time.

        Args:
            look: is called about twice a second.
        """
        while (left := self._began + limit_s - time.monotonic()) > 0:
            try:
                return self._process.wait(timeout=min(left, _LOOK_S))
            except subprocess.TimeoutExpired:
                look()
        return self._process.poll()

    def end(self) -> bool:
        """End it if it lives: asked first, then killed, with its whole group. Whether it is gone."""
        if self._process.poll() is None:
            self._signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=FAREWELL_S)
        self._signal(signal.SIGKILL)  # what it has started and left behind, too
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_STUBBORN_S)
        return self._process.returncode is not None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def _signal(self, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, which)
