"""Ctrl-C, once: the run saves itself and ends. Twice: at once. And SIGTERM, which is for those who start it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from lightning import Callback


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
def sigterm_as_interrupt() -> Iterator[None]:
    """Within it, SIGTERM is Ctrl-C, however often it comes; then all is as it was before."""
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, interrupt_once)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, before)


def interrupt_once(*_: object) -> None:
    """The handler of a scheduler's SIGTERM, which may come several times: the run saves itself, as at one Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.raise_signal(signal.SIGINT)


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
