"""Runs a command that ends with whoever started it: `python -m ablab.bench.gpu.guard COMMAND ...`.

Its standard input is a pipe on which nothing is ever written; that is at its end when the other side is, however that
came about. The command is in this process's group, which is ended as a whole.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main(words: list[str]) -> int:
    """Run the command; its exit status, negative for a signal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the command, which may save what it has
    command = subprocess.Popen(words, stdin=subprocess.DEVNULL, preexec_fn=_heed)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return command.wait()


def _heed() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.exit(status if status >= 0 else 128 - status)
