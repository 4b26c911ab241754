"""Where a process of a run prints: the run's log, for the terminal belongs to whoever started it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ablab.results.store import LOG_FILE


def print_to_log(folder: Path) -> None:
    """From now on what this process prints, in native code too, goes to the end of the log of the run in `folder`."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
