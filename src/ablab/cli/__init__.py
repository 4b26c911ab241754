"""The command line. `ablab` is a Hydra application with a few commands beside it.

`entry` sorts out what is asked for; `application` hands runs, sweeps and plans to Hydra, `commands` are the others and
`bench` those that measure, all made of what is in `parsing`; `attached` is a command that a Python program has started.
What is heavy is imported where it is used: help must not wait for torch.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from ablab.streams import said

__all__ = ["main"]

_SILENT_S = 0.5  # that a person at a terminal need not wonder about


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: see `ablab.cli.entry.main`, which takes a while to import where much else is going on."""
    try:
        with word_if_silent():
            from ablab.cli.entry import main as entered

            entered(arguments)
    except KeyboardInterrupt:  # while that is imported, or when all has been done
        print("\nablab: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        if arguments is None:  # nothing of ours is left to do: Ctrl-C then ends the process without a traceback
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def word_if_silent(after_s: float = _SILENT_S) -> Iterator[None]:
    """Say on a terminal that the command is under way, where it has said nothing by itself after so many seconds."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    said.clear()
    word = threading.Timer(after_s, _say_word)
    word.daemon = True
    word.start()
    try:
        yield
    finally:
        word.cancel()


def _say_word() -> None:
    if not said.is_set():
        with contextlib.suppress(OSError, ValueError):  # no command is the worse for it
            print("ablab: importing and checking; the first result takes seconds", file=sys.stderr, flush=True)
