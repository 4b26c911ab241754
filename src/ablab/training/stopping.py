"""Ctrl-C, once: the run saves itself and ends. Twice: at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


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
