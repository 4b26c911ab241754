"""Processes that are forked early from one that has imported everything, and become what would start for seconds.

A command forks them before it begins: they see as little of what happens later as a fresh Python would.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import util
from typing import Any, NoReturn


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
        self.pid = os.fork()
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
