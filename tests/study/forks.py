"""Processes that become what would start and import for seconds, forked from one that has imported it (on Linux).

Behind the fork all is as in a Python that has just started: working folder, environment, where Python looks for
modules, signals, open files. They are children of the process that asked for them, as if it had started them itself.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pythons import fork_pythons

base: list[str] = []  # where a fresh Python looks for modules, in what is forked from a `started` zygote
own: Zygote | None = None  # of this process as it was forked, see `_become`
_lock = threading.Lock()
_START = """
import importlib, socket, sys
base, (_, folder, own, *libraries) = sys.path[1:], sys.argv
sys.path.insert(0, folder)
import forks
for library in libraries:
    importlib.import_module(library)
forks.base, sys.path[:] = base, base
forks.serve(socket.socket(fileno=int(own)))
"""


class Zygote:
    """A process of which this one gets children that have imported what it has.

    Args:
        to_it: a socket, at whose other end it waits (`serve`); it ends when this is closed.
    """

    def __init__(self, to_it: socket.socket) -> None:
        self._socket = to_it

    def child(self, words: Sequence[str], files: Mapping[int, int], **further: Any) -> int:
        """Start a child that does what Python does with these words; the process.

        Args:
            words: those after the interpreter's.
            files: by their numbers there, their numbers here; streams that it does not name are those of here.
            further: see `_become`; unless told otherwise, working folder and environment are those of here.
        """
        files = {0: 0, 1: 1, 2: 2, **files}
        asked = {"cwd": os.getcwd(), "env": dict(os.environ), **further, "words": list(words), "numbers": list(files)}
        told = json.dumps(asked | {"mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))}).encode()
        with _lock, _adopting():
            socket.send_fds(self._socket, [len(told).to_bytes(4, "big")], list(files.values()))
            self._socket.sendall(told)
            return int.from_bytes(_exactly(self._socket, 4), "big")


def started(*libraries: str) -> Zygote:
    """Start one, which imports these."""
    ours, its = socket.socketpair()
    command = [sys.executable, "-c", _START, str(Path(__file__).parent), str(its.fileno()), *libraries]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    atexit.register(_end, subprocess.Popen(command, pass_fds=[its.fileno()], env=env), os.getpid())
    its.close()
    return Zygote(ours)


def _end(process: subprocess.Popen[bytes], of: int) -> None:
    if os.getpid() == of:  # and not in one of its forks
        process.kill()  # SIGTERM is blocked in what runs are forked from
        process.wait()


def forked() -> Zygote:
    """One that is this process as it is."""
    ours, its = socket.socketpair()
    if os.fork() == 0:
        os.dup2(its.detach(), 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        ours.detach()
        serve(socket.socket(fileno=3))
    its.close()
    return Zygote(ours)


def serve(to_it: socket.socket) -> NoReturn:
    """Be a zygote, until the other end is closed."""
    gc.freeze()  # what is imported is no garbage, and looking through it makes copies of shared memory
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of a session
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)
    while True:
        size, received, _, _ = socket.recv_fds(to_it, 4, 100)
        if not size:
            os._exit(0)
        asked = json.loads(_exactly(to_it, int.from_bytes(size, "big")))
        if _fork_orphan():
            to_it.sendall(os.getpid().to_bytes(4, "big"))
            to_it.close()
            _become(received, **asked)
        for file in received:
            os.close(file)


def _become(
    received: list[int],
    numbers: list[int],
    words: list[str],
    cwd: str,
    env: dict[str, str],
    mask: list[int],
    session: bool = False,
    path: Sequence[str] = (),
    starts: str | None = None,
) -> NoReturn:
    """Be the Python that was asked for.

    Args:
        session: whether it is the head of a session of its own.
        path: where it looks for modules that it finds nowhere else.
        starts: which Pythons that it starts are forked, too, see `fork_pythons`, or "own": it has a zygote for that.
    """
    global own
    above = max(*numbers, *received, 3) + 1
    copies = [fcntl.fcntl(file, fcntl.F_DUPFD, above) for file in received]  # a number may be that of another
    os.closerange(3, above)
    for copy, number in zip(copies, numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)
    if session:
        os.setsid()
    if starts is not None:
        own = origin = forked()
        if starts != "own":
            fork_pythons(lambda: origin, starts)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.modules.pop("ablab.study.supervision.preload", None)  # does its work when it is imported
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _run_to_the_end(lambda: _interpret(words, path))


def _interpret(words: list[str], path: Sequence[str]) -> None:
    place = next(number for number, word in enumerate(words) if word in ("-c", "-m"))
    flags, (kind, what, *arguments) = words[:place], words[place:]
    sys.dont_write_bytecode = "-B" in flags or bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    safe = "-P" in flags or bool(os.environ.get("PYTHONSAFEPATH"))
    first = [] if safe else ["" if kind == "-c" else os.getcwd()]
    told = [*first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *base]
    sys.path[:] = [*told, *(each for each in path if each not in told)]
    sys.argv[:] = [kind, *arguments]
    if kind == "-c":
        exec(what, {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def _run_to_the_end(do: Callable[[], object]) -> NoReturn:
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


def _exactly(other: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (more := other.recv(size - len(found))):
            raise ConnectionError("the other end is gone")
        found += more
    return found


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Within it, processes below this one whose parent ends become its children."""
    prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
    prctl(set_child_subreaper, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(set_child_subreaper, 0, 0, 0, 0)


def _fork_orphan() -> bool:
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
