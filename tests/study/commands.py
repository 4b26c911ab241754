"""`ablab` as a process of its own, forked from one that has imported everything: a second instead of seven.

Behind the fork all is as for `python -m ablab`: working folder, environment, where Python looks for modules, signals,
the processes that the command starts itself. The process that its runs are forked from is forked, too, from one that
has seen nothing of the command (`forks.Spare`); so is that of commands in the process of the tests, which are told to
replace it time and again. `tests/test_new_axis.py` and torchrun start commands in full.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from forks import Spare, adopting, await_work, fork_orphan, keep_spares, run_to_the_end
from processes import wait_for

_SERVER = """
import json, sys
fresh, sys.path[:] = list(sys.path), json.loads(sys.argv[1])
import ablab.cli.application, ablab.cli.commands, ablab.report.conclude, ablab.study.run_study, ablab.training.run
import commands
commands.serve(fresh)
"""


class Command:
    """A running command, with the manners of `subprocess.Popen`.

    Args:
        env: the whole environment.
        session: whether it is the head of a session of its own.
        code: run instead of `ablab`, as by `python -c`.
    """

    def __init__(
        self, words: list[str], cwd: Path, env: dict[str, str], session: bool = False, code: str | None = None
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="command-", dir=os.environ["ABLAB_CACHE"]))
        for name in ("out", "err"):  # which may be read before it has begun
            (self._folder / name).touch()
        asked = {"words": words, "cwd": str(cwd), "env": env, "session": session, "code": code}
        _Server.the().ask(asked | {"folder": str(self._folder), "path": sys.path})
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
        return self.out, self.err

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return (self._folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text()

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
        wait_for(lambda: path.exists() or _Server.the().ended(), timeout)
        return path.read_text()


class _Server:
    """A process that forks commands. It ends with this one, whose end closes its stdin."""

    def __init__(self) -> None:
        path = json.dumps([str(Path(__file__).parent), *sys.path])
        self._process = subprocess.Popen([sys.executable, "-c", _SERVER, path], stdin=subprocess.PIPE, text=True)

    @staticmethod
    @functools.cache
    def the() -> _Server:
        return _Server()

    def ask(self, asked: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()

    def ended(self) -> bool:
        return self._process.poll() is not None


def spare() -> Spare | None:
    """A child of this process that sees nothing of it, to become the process that runs are forked from."""
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_UNIX) as listener, adopting():
        listener.bind("")  # any name that is free
        listener.listen()
        listener.settimeout(180.0)
        _Server.the().ask({"spare": listener.getsockname().decode()})
        to_it, _ = listener.accept()
        pid = int.from_bytes(to_it.recv(8), "big")
    return Spare(pid, to_it)


def serve(fresh: list[str]) -> None:
    """Fork a process for each line of stdin.

    Args:
        fresh: where a Python that was just started looks for modules.
    """
    for line in sys.stdin:
        asked = json.loads(line)
        if "spare" in asked:
            if fork_orphan():
                _wait_as_a_spare(asked["spare"], fresh)
            continue
        sys.path[:] = asked.pop("path")
        if os.fork() == 0:
            _wait_for_child(Path(asked["folder"]))
            run_to_the_end(functools.partial(_become, **asked))


def _wait_as_a_spare(path: str, fresh: list[str]) -> NoReturn:
    sys.path[:] = fresh
    own = socket.socket(socket.AF_UNIX)
    own.connect(path)
    own.sendall(os.getpid().to_bytes(8, "big"))
    await_work(own)


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


def _become(words: list[str], cwd: str, env: dict[str, str], folder: str, session: bool, code: str | None) -> None:
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
    if code is not None:
        sys.argv = ["-c", *words]
        exec(code, {"__name__": "__main__"})
        return
    sys.argv = ["ablab", *words]
    keep_spares(2)
    runpy.run_module("ablab", run_name="__main__", alter_sys=True)
