"""Processes that tests start, and what becomes of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(happened: Callable[..., bool], limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def processes_in(folder: Path) -> list[int]:
    """The processes that work in `folder`, or write there (Linux tells; elsewhere none is found)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            used = [os.readlink(entry / "cwd"), *(os.readlink(each) for each in (entry / "fd").iterdir())]
            if any(path.startswith(str(folder)) for path in used):
                found.append(int(entry.name))
    return found
