"""A command that a Python program has started, `ablab.api.command`: its words come by standard input.

Nothing else comes there. When whoever started it is gone, however that was, the command ends as at Ctrl-C: running runs
save themselves, and the study can go on later.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading


def main() -> None:
    """Read what is asked for, a line of JSON, and do it."""
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        asked = json.loads(stdin.readline())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started it may have ignored or blocked it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with, args=(_lifeline(),), daemon=True).start()
    sys.path += [folder for folder in asked["path"] if folder not in sys.path]

    from ablab.cli import main as command

    command(asked["words"])


def _lifeline() -> int:
    """Standard input under another number; in its place there is nothing to read, for whoever might ask."""
    kept = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return kept


def _end_with(lifeline: int) -> None:
    while os.read(lifeline, 1024):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
