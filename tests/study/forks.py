"""Processes that are forked early from one that has imported everything, and become what would start for seconds.

They see as little of what happens later as a fresh Python would.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
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
    """A process that has imported what another has, and waits to become the process that runs are forked from.

    It takes the place of a Python that would start and import for seconds; it sees as little of what the one that it
    works for imports later as that one would.

    Args:
        pid: a child of this process.
        to_it: a socket, at whose other end the process waits (`await_work`).
    """

    def __init__(self, pid: int, to_it: socket.socket) -> None:
        self.pid = pid
        self._socket = to_it.detach()  # a number, since nobody closes it where the spare is not needed

    @classmethod
    def forked(cls) -> Spare:
        """One forked from this process."""
        ours, own = socket.socketpair()
        if (pid := os.fork()) == 0:
            ours.close()
            await_work(own)
        own.close()
        return cls(pid, ours)

    def become(self, code: str, fds: list[int]) -> int:
        """Run `code`, which knows these file descriptors by their numbers; the process."""
        mask = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        fds = [*fds, 1, 2]
        asked = json.dumps([code, fds, dict(os.environ), os.getcwd(), mask]).encode()
        with socket.socket(fileno=self._socket) as spare:
            socket.send_fds(spare, [len(asked).to_bytes(4, "big")], fds)
            spare.sendall(asked)
        return self.pid


def await_work(own: socket.socket) -> NoReturn:
    """Become what `Spare.become` asks for; the process ends with its work, or with who would ask for it."""
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
    spares = [Spare.forked() for _ in range(count)]
    util.spawnv_passfds = taking(lambda: spares.pop() if spares else None)  # type: ignore[assignment]


def taking(spare: Callable[[], Spare | None]) -> Callable[[bytes, Sequence[Any], Sequence[int]], int]:
    """Return what stands in for `multiprocessing.util.spawnv_passfds`: where runs are to be forked from it, a spare."""
    spawn: Callable[..., int] = util.spawnv_passfds

    def take(path: bytes, args: Sequence[Any], fds: Sequence[int]) -> int:
        found = spare() if "forkserver" in str(args[-1]) else None
        return spawn(path, args, fds) if found is None else found.become(str(args[-1]), list(fds))

    return take


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Within it, processes whose parent ends become children of this one, if that was below it (Linux)."""
    prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
    prctl(set_child_subreaper, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(set_child_subreaper, 0, 0, 0, 0)


def fork_orphan() -> bool:
    """Fork a process whose parent has ended; true in that process."""
    reader, writer = os.pipe()
    if (between := os.fork()) == 0:
        if os.fork():
            os._exit(0)
        os.close(writer)
        os.read(reader, 1)  # until the other one has seen the end of that between
        os.close(reader)
        return True
    os.close(reader)
    os.waitpid(between, 0)
    os.close(writer)
    return False
