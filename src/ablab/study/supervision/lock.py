"""Locks on folders, so that two processes never work in one of them. A dead owner's lock is nobody's."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ablab.errors import UserError
from ablab.results.store import write_atomically

LOCK_FILE = ".lock"  # held by the operating system for the process that opened it, and let go when that dies
OWNER_FILE = ".owner.json"  # who that is, for people and for machines to which the operating system's lock is not told
BEAT_S = 10.0  # how often an owner says that it lives
STALE_S = 60.0  # silence after which an owner on another machine is taken for dead


@contextlib.contextmanager
def run_lock(folder: Path, wait_s: float = 30.0) -> Iterator[None]:
    """Hold the folder of a run. What an earlier supervisor left behind may need a moment to die.

    Raises:
        UserError: another process works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=wait_s)
    try:
        with contextlib.suppress(NotImplementedError):  # a file system without locks
            lock.acquire()
    except Timeout as error:
        raise UserError(f"{folder}: another process works on this run; wait for it, or end it") from error
    try:
        yield
    finally:
        lock.release()


class StudyLock:
    """The lock on the folder of a study. Use it as a context manager, and call `beat` every now and then.

    Raises:
        UserError: another supervisor works there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / LOCK_FILE, timeout=0)
        self._last_beat = 0.0
        self.taken_over: str | None = None  # of whom, if an owner died without letting go

    def __enter__(self) -> StudyLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        owner = self._owner()
        try:
            with contextlib.suppress(NotImplementedError):  # a file system without locks: what owners say has to do
                self._lock.acquire()
        except Timeout as error:
            raise UserError(f"{self._folder}: {_told(owner)} works on this study; wait for it, or end it") from error
        if owner is not None:
            if owner.get("host") != socket.gethostname() and time.time() - _beat_of(owner) < STALE_S:
                self._lock.release()
                raise UserError(
                    f"{self._folder}: {_told(owner)} works on this study, or died less than {STALE_S:.0f} s ago; "
                    "wait for it, or end it"
                )
            self.taken_over = _told(owner)
        self.beat()
        return self

    def __exit__(self, *exception: Any) -> None:
        (self._folder / OWNER_FILE).unlink(missing_ok=True)
        self._lock.release()

    def beat(self) -> None:
        """Say that this process lives."""
        now = time.time()
        if now - self._last_beat >= BEAT_S:
            self._last_beat = now
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "beat": now}
            with contextlib.suppress(OSError):  # a full disk is no reason to end a study
                write_atomically(self._folder / OWNER_FILE, json.dumps(owner))

    def _owner(self) -> dict[str, Any] | None:
        try:
            owner = json.loads((self._folder / OWNER_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return owner if isinstance(owner, dict) else None


def _beat_of(owner: dict[str, Any]) -> float:
    beat = owner.get("beat")
    return float(beat) if isinstance(beat, int | float) else 0.0


def _told(owner: dict[str, Any] | None) -> str:
    return "another process" if owner is None else f"process {owner.get('pid')} on {owner.get('host')}"
