"""Locks on folders, so that two processes never work in one of them. A dead owner's lock is nobody's."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ablab.errors import UserError
from ablab.results.store import parse_json, write_atomically

LOCK_FILE = ".lock"  # held by the operating system for the process that opened it, and let go when that dies
OWNER_FILE = ".owner.json"  # who that is, for people and for machines to which the operating system's lock is not told
BEAT_S = 10.0  # how often an owner says that it lives
STALE_S = 60.0  # silence after which an owner on another machine is taken for dead


class LockedError(UserError):
    """Another process works in the folder of a run."""


@contextlib.contextmanager
def run_lock(folder: Path, wait_s: float = 30.0) -> Iterator[None]:
    """Hold the folder of a run. What an earlier supervisor left behind may need a moment to die.

    Raises:
        LockedError: another process works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=wait_s)
    try:
        with contextlib.suppress(NotImplementedError):  # a file system without locks
            lock.acquire()
    except Timeout as error:
        raise LockedError(f"{folder}: another process works on this run; wait for it, or end it") from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who works on a study, as it says itself."""

    host: str
    pid: int
    beat: float  # when it last said that it lives, in seconds since 1970


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
            raise UserError(f"{self._folder}: {_named(owner)} works on this study; wait for it, or end it") from error
        if owner is not None:
            # From the future, too: a clock that was set back must not keep the folder of a dead owner for a day.
            if owner.host != socket.gethostname() and abs(time.time() - owner.beat) < STALE_S:
                self._lock.release()
                raise UserError(
                    f"{self._folder}: {_named(owner)} works on this study, or died less than {STALE_S:.0f} s ago; "
                    "wait for it, or end it"
                )
            self.taken_over = _named(owner)
        self.beat()
        return self

    def __exit__(self, *exception: Any) -> None:
        (self._folder / OWNER_FILE).unlink(missing_ok=True)
        self._lock.release()

    def beat(self) -> None:
        """Say that this process lives."""
        now = time.time()
        if abs(now - self._last_beat) >= BEAT_S:  # a clock may be set back
            self._last_beat = now
            owner = Owner(host=socket.gethostname(), pid=os.getpid(), beat=now)
            with contextlib.suppress(OSError):  # a full disk is no reason to end a study
                write_atomically(self._folder / OWNER_FILE, json.dumps(asdict(owner)))

    def _owner(self) -> Owner | None:
        try:
            owner = parse_json((self._folder / OWNER_FILE).read_bytes())
            return Owner(host=str(owner["host"]), pid=int(owner["pid"]), beat=float(owner["beat"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _named(owner: Owner | None) -> str:
    return "another process" if owner is None else f"process {owner.pid} on {owner.host}"
