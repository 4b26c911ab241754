"""`ablab` as a process of its own, forked from one that has imported everything: a second instead of seven.

Behind the fork all is as for `python -m ablab`: working folder, environment, where Python looks for modules, signals,
the processes that the command starts itself. The process that its runs are forked from is forked, too, from one that
has seen nothing of the command (`Spare`). `tests/test_new_axis.py` and torchrun start commands in full.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import util
from pathlib import Path
from typing import Any

from processes import wait_for

_SERVER = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import ablab.cli.application, ablab.cli.commands, ablab.report.conclude, ablab.study.run_study, ablab.training.run
from commands import serve
if (command := serve()) is not None:
    command()
"""


class Command:
    """A running command, with the manners of `subprocess.Popen`.

    Args:
        env: the whole environment.
        session: whether it is the head of a session of its own.
    """

    def __init__(self, words: list[str], cwd: Path, env: dict[str, str], session: bool = False) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="command-", dir=os.environ["ABLAB_CACHE"]))
        server = _server()
        assert server.stdin is not None
        asked = {"words": words, "cwd": str(cwd), "env": env, "folder": str(self._folder), "session": session}
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        self.pid = int(self._told("pid"))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        if self.returncode is None and (self._folder / "status").exists():
            self.returncode = int((self._folder / "status").read_text())
        return self.returncode

    def communicate(self, timeout: float = 300.0) -> tuple[str, str]:
        """Wait for its end; what it has printed."""
        self.returncode = int(self._told("status", timeout))
        return (self._folder / "out").read_text(), (self._folder / "err").read_text()

    def send_signal(self, which: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, which)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _told(self, what: str, timeout: float = 180.0) -> str:
        path = self._folder / what
        wait_for(lambda: path.exists() or _server().poll() is not None, timeout)
        return path.read_text()


@functools.cache
def _server() -> subprocess.Popen[str]:
    """It ends with this process, whose end closes its stdin."""
    path = json.dumps([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen([sys.executable, "-c", _SERVER, path], stdin=subprocess.PIPE, text=True)


def serve() -> Callable[[], object] | None:
    """Fork a process for each line of stdin. It returns what is to be done there; in the server, None at the end."""
    for line in sys.stdin:
        asked = json.loads(line)
        if os.fork() == 0:
            _wait_for_child(Path(asked["folder"]))
            return functools.partial(_become, **asked)
    return None


def _wait_for_child(folder: Path) -> None:
    """Fork once more: the parent waits, and tells what becomes of the child, which alone goes on from here."""
    if (pid := os.fork()) == 0:
        return
    _tell(folder / "pid", pid)
    _tell(folder / "status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _tell(path: Path, value: int) -> None:
    path.with_suffix(".new").write_text(str(value))
    path.with_suffix(".new").rename(path)


class Spare:
    """A process that has imported what its parent has, and waits to become the process that runs are forked from.

    It takes the place of a Python that would start and import for seconds; it sees as little of what the parent imports
    later as that one would.
    """

    def __init__(self) -> None:
        self._socket, own = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self._socket.close()
            self._wait(own)
        own.close()

    def become(self, code: str, fds: list[int]) -> int:
        """Run `code`, which knows these file descriptors by their numbers; the process."""
        mask = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        asked = json.dumps([code, fds, dict(os.environ), os.getcwd(), mask]).encode()
        socket.send_fds(self._socket, [len(asked).to_bytes(4, "big")], fds)
        self._socket.sendall(asked)
        self._socket.close()
        return self.pid

    def _wait(self, own: socket.socket) -> None:
        """Never returns: the process ends with its work, or with its parent."""
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
        del sys.modules["ablab.study.supervision.preload"]  # does its work when it is imported
        exec(code)
        os._exit(0)


def _keep_spares(count: int = 2) -> None:
    """Let the first starts of a process that runs are forked from take a spare one."""
    spares = [Spare() for _ in range(count)]
    spawn: Callable[..., int] = util.spawnv_passfds

    def take(path: bytes, args: Sequence[Any], fds: Sequence[int]) -> int:
        if not spares or "forkserver" not in str(args[-1]):
            return spawn(path, args, fds)
        return spares.pop().become(str(args[-1]), list(fds))

    util.spawnv_passfds = take  # type: ignore[assignment]  # of the arguments it is called with here


def _become(words: list[str], cwd: str, env: dict[str, str], folder: str, session: bool) -> None:
    if session:
        os.setsid()
    os.chdir(cwd)
    for name, flags, place in (
        (os.devnull, os.O_RDONLY, 0),
        (f"{folder}/out", os.O_WRONLY | os.O_CREAT, 1),
        (f"{folder}/err", os.O_WRONLY | os.O_CREAT, 2),
    ):
        os.dup2(os.open(name, flags), place)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["ablab", *words]
    _keep_spares()
    runpy.run_module("ablab", run_name="__main__", alter_sys=True)
