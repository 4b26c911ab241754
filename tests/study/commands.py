"""`ablab` as a process of its own, forked from one that has imported everything: a second instead of seven.

Behind the fork all is as for `python -m ablab`, see `forks`; the process that its runs are forked from is forked, too,
from one that has seen nothing of the command. Elsewhere than on Linux, commands are started in full.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

import forks
from processes import wait_for
from pythons import forking

_LIBRARIES = (  # none of those that bring a plugin for pytest, which wants to import it itself
    "wandb_imported",  # first: it looks through all modules again and again
    *("torch", "lightning.pytorch", "omegaconf", "pandas", "scipy.stats", "matplotlib.figure", "jinja2", "rich.live"),
    *("tensorboard.default", "tensorboard.backend.event_processing.event_accumulator", "torch.utils.tensorboard"),
    *("pydantic", "filelock", "torch._inductor.compile_fx"),
)
_EVERYTHING = """
import functools, os, socket, sys
from importlib import metadata
from lightning.fabric.utilities import registry
import ablab.cli.application, ablab.cli.commands, ablab.report.conclude, ablab.report.dashboard
import ablab.study.run_study, ablab.study.supervision.preload, ablab.training.run
import forks

ablab.study.supervision.preload._import_all([], [])  # else each process that runs are forked from does it
ablab.config.register_schema()
os.fsync = lambda file: None  # this and the next as in the process of the tests, see `shared_fixtures`
registry.entry_points = functools.cache(metadata.entry_points)
registry._load_external_callbacks("lightning.pytorch.callbacks_factory")  # as every Trainer does
forks.serve(socket.socket(fileno=int(sys.argv[1])))
"""


class Command:
    """A running command, with the manners of `subprocess.Popen`.

    Args:
        env: the whole environment.
        session: whether it is the head of a session of its own.
        code: run instead of `ablab`, as by `python -c`.
        anew: whether it and all that it starts read the code of ablab, which may be another there, themselves.
        starts: which Pythons that it starts are forked, see `fork_pythons`; all of them if it is `anew`.
    """

    def __init__(
        self,
        words: list[str],
        cwd: Path,
        env: dict[str, str],
        session: bool = False,
        code: str | None = None,
        anew: bool = False,
        starts: str = "runs",
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="command-", dir=os.environ["ABLAB_CACHE"]))
        python = ["-m", "ablab", *words] if code is None else ["-c", code, *words]
        with (
            open(os.devnull, "rb") as nothing,
            (self._folder / "out").open("wb") as out,
            (self._folder / "err").open("wb") as err,
        ):
            if sys.platform == "linux":
                files = {0: nothing.fileno(), 1: out.fileno(), 2: err.fileno()}
                like = {"cwd": str(cwd), "env": env, "session": session}
                if anew:
                    self.pid = libraries().child(python, files, **like, starts="all")
                else:
                    self.pid = everything().child(python, files, **like, starts=starts, path=sys.path)
            else:
                self._started = subprocess.Popen(
                    [sys.executable, *python], cwd=cwd, env=env, stdout=out, stderr=err, start_new_session=session
                )
                self.pid = self._started.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def communicate(self, timeout: float = 300.0) -> tuple[str, str]:
        """Wait for its end; what it has printed."""
        wait_for(lambda: self.poll() is not None, timeout)
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


@functools.cache
def libraries() -> forks.Zygote:
    """Of what has imported libraries, and nothing of ablab: what workers are forked from, if they are."""
    return forks.own or forks.started(*_LIBRARIES)


@functools.cache
def everything() -> forks.Zygote:
    """Of what has imported ablab, too."""
    ours, own = socket.socketpair()
    with own:
        libraries().child(["-c", _EVERYTHING, "3"], {3: own.fileno()})
    return forks.Zygote(ours)


def forking_runs() -> AbstractContextManager[None]:
    """Within it, the process that runs are forked from is itself forked, each time that another is needed."""
    return forking(everything, "runs")


def forking_all() -> AbstractContextManager[None]:
    """Within it, every Python that is started has the libraries already, and reads the code of ablab itself."""
    return forking(libraries, "all")


def forking_workers() -> AbstractContextManager[None]:
    """Within it, Pythons that are started have the libraries already, and a process of their own to fork others."""
    return forking(libraries, "own")
