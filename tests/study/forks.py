"""Processes that are forked early from one that has imported everything, and become what would start for seconds.

The process of the tests forks them before it runs any, and a command before it begins: they see as little of what
happens later as a fresh Python would.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import fcntl
import gc
import json
import os
import shutil
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import util
from typing import Any, NoReturn

_before: list[Any] = list(warnings.filters)
_of_imports: list[Any] = []


def note_filters() -> None:
    """Take note of the filters of warnings that packages have set since this module was imported."""
    _of_imports[:] = [each for each in warnings.filters if each not in _before]


def forked() -> int:
    """Fork: 0 in the child, which has nothing of the tests but what they have imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the tests' process may have a thread that talks to xdist
        pid = os.fork()
    if pid == 0:
        gc.freeze()
        _warn_as_python_does()
        sys.meta_path[:] = [finder for finder in sys.meta_path if "pytest" not in type(finder).__module__]
        faulthandler.disable()  # it writes where pytest wants it
        atexit.unregister(shutil.rmtree)  # the folder of caches is the parent's to remove
        sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
        os.fsync = lambda fd: None  # as in the tests' own process: nobody cuts the power
    return pid


def _warn_as_python_does() -> None:
    """Not as pytest does."""
    warnings.resetwarnings()
    warnings.filters[:] = [*_of_imports, ("default", None, DeprecationWarning, "__main__", 0)]  # type: ignore[index]
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind, append=True)


def run_to_the_end(do: Callable[[], object]) -> NoReturn:
    """End the process as Python ends after a script that does this."""
    status: Any = 0
    try:
        do()
    except SystemExit as ended:
        status = ended.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


class Spare:
    """A process that has imported what its parent has, and waits to become the process that runs are forked from.

    It takes the place of a Python that would start and import for seconds; it sees as little of what the parent imports
    later as that one would.
    """

    def __init__(self) -> None:
        ours, own = socket.socketpair()
        self.pid = forked()
        if self.pid == 0:
            ours.close()
            self._wait(own)
        own.close()
        self._socket = ours.detach()  # a number, since nobody closes it where the spare is not needed

    def become(self, code: str, fds: list[int]) -> int:
        """Run `code`, which knows these file descriptors by their numbers; the process."""
        mask = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        asked = json.dumps([code, fds, dict(os.environ), os.getcwd(), mask]).encode()
        with socket.socket(fileno=self._socket) as spare:
            socket.send_fds(spare, [len(asked).to_bytes(4, "big")], fds)
            spare.sendall(asked)
        return self.pid

    def _wait(self, own: socket.socket) -> NoReturn:
        """The process ends with its work, or with its parent."""
        size, received, _, _ = socket.recv_fds(own, 4, 8)
        if not size:
            os._exit(0)
        code, fds, env, cwd, mask = json.loads(own.makefile("rb").read(int.from_bytes(size, "big")))
        above = max([*fds, *received]) + 1
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in received]  # a number may be that of another
        os.closerange(3, above)
        for copy, fd in zip(copies, fds, strict=True):
            os.dup2(copy, fd)
            os.close(copy)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        sys.modules.pop("ablab.study.supervision.preload", None)  # does its work when it is imported
        try:
            exec(code)
        finally:
            os._exit(0)


def keep_spares(count: int) -> None:
    """Let the first starts of a process that runs are forked from take a spare one."""
    spares = [Spare() for _ in range(count)]
    spawn: Callable[..., int] = util.spawnv_passfds

    def take(path: bytes, args: Sequence[Any], fds: Sequence[int]) -> int:
        if not spares or "forkserver" not in str(args[-1]):
            return spawn(path, args, fds)
        return spares.pop().become(str(args[-1]), list(fds))

    util.spawnv_passfds = take  # type: ignore[assignment]  # of the arguments it is called with here
