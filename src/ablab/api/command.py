"""A command of ablab in a process of its own: what it says is passed on, and nothing of it stays in this process.

A study needs signal handlers, a process that its runs are forked from, and the code as it is on the disk now. A
notebook has its own handlers, threads, and modules as they were when it imported them. So each keeps to itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from ablab.errors import UserError
from ablab.report.conclude import SHOWN_ELSEWHERE

PROGRAM = (sys.executable, "-P", "-u", "-m", "ablab.cli.attached")  # -P: no module of the working folder goes first
_FEIGN_A_TERMINAL = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE")  # as rich reads them
_ERROR = "ablab: error: "  # begins the one line by which a command says what is the user's to mend


class Command:
    """A command that is under way. What it prints is printed here; it ends when this process does, in order.

    Args:
        words: of the command line, after "ablab".
    """

    def __init__(self, words: Sequence[str]) -> None:
        sys.stdout.flush()
        self._error = ""
        self._process = subprocess.Popen(
            PROGRAM,
            stdin=subprocess.PIPE,  # its words, and then nothing until this process is gone
            stdout=None if _is_terminal() else subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=_environment(),
            start_new_session=True,  # so that Ctrl-C reaches it once, from here
        )
        self._errors = threading.Thread(target=self._pass_on_errors, daemon=True)
        self._errors.start()
        asked = {"words": [*words], "path": [folder for folder in sys.path if folder]}
        with contextlib.suppress(BrokenPipeError):  # it could not start, and has said why
            self._process.stdin.write(json.dumps(asked) + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def wait(self) -> None:
        """Wait for its end, and pass on what it prints.

        Raises:
            UserError: what it says is the user's to mend, or it ended in another way than any command does.
            KeyboardInterrupt: Ctrl-C, after it has ended in order.
        """
        interrupts = 0
        try:
            while True:
                try:
                    status = self._ended()
                    break
                except KeyboardInterrupt:
                    interrupts += 1
                    self._process.send_signal(signal.SIGINT if interrupts < 3 else signal.SIGKILL)
        finally:
            self._close()
        if interrupts or status in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if self._error:
            raise UserError(self._error)
        if status not in (0, 1):  # 1: some run did not end well, which its record says
            raise UserError(f"ablab ended with status {status}; what it said is above")

    def _ended(self) -> int:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
        return self._process.wait()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):  # a command that still runs ends by that
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()
        self._errors.join()

    def _pass_on_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                if line.startswith(_ERROR):
                    self._error = line.removeprefix(_ERROR).strip()
                else:
                    sys.stderr.write(line)


def _environment() -> dict[str, str]:
    """Of this process; but where no terminal is, none is feigned.

    Jupyter's kernels do so for colours. A terminal's screen would be copied into the notebook at each change.
    """
    feigned = () if _is_terminal() else _FEIGN_A_TERMINAL
    kept = {name: value for name, value in os.environ.items() if name not in feigned}
    return kept | {"PYTHONIOENCODING": "utf-8", SHOWN_ELSEWHERE: "1"}


def _is_terminal() -> bool:
    """Whether standard output is a terminal, on which a command can draw by itself."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return sys.stdout.isatty() and sys.stdout.fileno() == 1
    return False
