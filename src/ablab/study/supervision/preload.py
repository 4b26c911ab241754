"""Imported by the process that runs are forked from, and by nobody else: imports all that a run could import late."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator

# Environment variables: where to look for modules, and which to import beside our own; and where copies of them lie.
WANTED = "ABLAB_PRELOAD"
SNAPSHOT = "ABLAB_SNAPSHOT"

_OURS = ("ablab.model", "ablab.tasks", "ablab.training", "ablab.study.supervision.worker")


_LOOK_S = 0.5  # how often to see whether the parent lives


@contextlib.contextmanager
def _for(parent: int) -> Iterator[None]:
    """Within it, end with the parent: whoever imports for seconds or, on a busy machine, minutes hears of nothing else.

    By a timer's signal, not by a thread: the processes of runs are forked from this one.
    """

    def look(*_: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _import_all(path: list[str], modules: list[str]) -> None:
    sys.path[:0] = filter(None, [os.environ.get(SNAPSHOT)])  # also before the working folder, where Python looks first
    sys.path += [folder for folder in path if folder not in sys.path]
    for name in _OURS:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{name}."):
            importlib.import_module(module.name)
    for name in modules:
        with contextlib.suppress(Exception):  # the run that needs it will say what is wrong
            importlib.import_module(name)


if WANTED in os.environ:
    _wanted = json.loads(os.environ.pop(WANTED))
    with _for(_wanted.pop("parent", os.getppid())):
        _import_all(**_wanted)
        _provenance = importlib.import_module("ablab.training.provenance")
        _provenance.git_state()  # of the code as it was read; for all runs
        _provenance.versions()
