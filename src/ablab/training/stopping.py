"""Ctrl-C, once: the run saves itself and ends. Twice: at once. And SIGTERM, which ends it as it would without us."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from lightning import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException


class StopRequest:
    """Whether this process was asked to stop by SIGINT."""

    def __init__(self) -> None:
        self.made = False

    def __call__(self) -> bool:
        return self.made

    def _handle(self, *_: Any) -> None:
        if self.made:
            raise KeyboardInterrupt
        self.made = True


@contextlib.contextmanager
def stop_on_request() -> Iterator[StopRequest]:
    """Within it, the first SIGINT is a request and the second a KeyboardInterrupt; then all is as it was before."""
    request = StopRequest()
    before = signal.getsignal(signal.SIGINT)
    with contextlib.suppress(ValueError):  # not in the main thread, which alone receives signals
        signal.signal(signal.SIGINT, request._handle)
    try:
        yield request
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def refuse_exits() -> Iterator[None]:
    """Within it, a SystemExit that stands for no signal is a failure: a component or a callback has asked for it."""
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended, SIGTERMException) or isinstance(ended.__context__, KeyboardInterrupt):
            raise
        raise RuntimeError(f"sys.exit({ended.code}) was called by a part of the run") from ended


class OwnSigterm(Callback):
    """Leaves SIGTERM to those who start this process: puts their handler back in the place of Lightning's.

    Lightning's handler sends to the other processes, each at a moment of its own, while they may be sending something
    else: all would wait for each other. It is there from the moment before the first of these hooks, and Lightning
    removes it when the stage has ended.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, *args: Any) -> None:
        with contextlib.suppress(ValueError):  # not in the main thread, where Lightning has no handler either
            signal.signal(signal.SIGTERM, self._handler)

    def on_validation_start(self, *args: Any) -> None:
        self.on_train_start()

    def on_test_start(self, *args: Any) -> None:
        self.on_train_start()
