"""Locks on folders, so that two processes never work in one of them. A dead owner's lock is nobody's."""

from __future__ import annotations

import contextlib
import errno
import inspect
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from ablab.errors import UserError
from ablab.results.store import parse_json, write_atomically

LOCK_FILE = ".lock"  # held by the operating system for the process that opened it, and let go when that dies
OWNER_FILE = ".owner.json"  # who that is, for people and for machines to which the operating system's lock is not told
BEAT_S = 10.0  # how often an owner says that it lives
STALE_S = 60.0  # silence after which an owner on another machine is taken for dead
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what a file system without locks answers
# Later versions would make a file that is the lock there, and outlives its owner.
_HARD: dict[str, Any] = (
    {"fallback_to_soft": False} if "fallback_to_soft" in inspect.signature(FileLock).parameters else {}
)


class LockedError(UserError):
    """Another process works in the folder of a run."""


@contextlib.contextmanager
def run_lock(folder: Path, wait_s: float = 30.0) -> Iterator[None]:
    """Hold the folder of a run. What an earlier supervisor left behind may need a moment to die.

    Raises:
        LockedError: another process works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock_of(folder, wait_s)
    try:
        _acquire(lock)
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
    """The lock on the folder of a study. Use it as a context manager, and call `beat` now and then, or use `beating`.

    Raises:
        UserError: another supervisor works there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = _lock_of(folder, 0)
        self._last_beat = 0.0
        self.taken_over: str | None = None  # of whom, if an owner died without letting go

    def __enter__(self) -> StudyLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        owner = self._owner()
        try:
            _acquire(self._lock)
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

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Within it, a thread calls `beat`: for the time in which whoever holds the lock waits for others."""
        over = threading.Event()

        def go_on() -> None:
            while not over.wait(BEAT_S):
                self.beat()

        heart = threading.Thread(target=go_on, daemon=True)
        heart.start()
        try:
            yield
        finally:
            over.set()
            heart.join()

    def _owner(self) -> Owner | None:
        try:
            owner = parse_json((self._folder / OWNER_FILE).read_bytes())
            return Owner(host=str(owner["host"]), pid=int(owner["pid"]), beat=float(owner["beat"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _lock_of(folder: Path, wait_s: float) -> BaseFileLock:
    return FileLock(folder / LOCK_FILE, timeout=wait_s, **_HARD)


def _acquire(lock: BaseFileLock) -> None:
    """Acquire it; nothing on a file system without locks, where what owners say has to do. Raises Timeout, OSError."""
    try:
        lock.acquire()
    except NotImplementedError:
        return
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in _NO_LOCKS:
            raise


def _named(owner: Owner | None) -> str:
    return "another process" if owner is None else f"process {owner.pid} on {owner.host}"
