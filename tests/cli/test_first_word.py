"""A command that says nothing yet says on a terminal that it is under way."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

import pytest

from ablab import __version__, cli
from ablab.cli import entry
from ablab.streams import Lasting, said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class OnDemand:
    """In place of a timer: it is up when it is asked to be."""

    made: list[OnDemand] = []  # noqa: RUF012

    def __init__(self, seconds: float, do: Callable[[], None]) -> None:
        self.do, self.cancelled, self.daemon = do, False, False
        self.made.append(self)

    def start(self) -> None:
        pass

    def cancel(self) -> None:
        self.cancelled = True


def at_terminal(monkeypatch: pytest.MonkeyPatch, stream: TextIO | None) -> None:
    """From now on, to the end of the test: pytest itself puts another one there before it begins."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(threading, "Timer", OnDemand)
    OnDemand.made.clear()


def test_silence_is_broken_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    at_terminal(monkeypatch, terminal := Terminal())
    with cli.word_if_silent():
        [timer] = OnDemand.made
        timer.do()
        assert terminal.getvalue() == "ablab: importing and checking; the first result takes seconds\n"
    assert timer.cancelled


def test_whoever_has_said_something_says_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    at_terminal(monkeypatch, terminal := Terminal())
    with cli.word_if_silent():
        Lasting(io.StringIO()).write("[1/6] ok")
        OnDemand.made[0].do()
    assert terminal.getvalue() == ""
    with cli.word_if_silent():
        assert not said.is_set()  # what an earlier command of this process has said does not count


def test_nothing_is_said_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.StringIO(), None):
        at_terminal(monkeypatch, stream)
        with cli.word_if_silent():
            assert OnDemand.made == []


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    at_terminal(monkeypatch, terminal := Terminal())
    with cli.word_if_silent():
        monkeypatch.setattr(terminal, "write", broken)
        OnDemand.made[0].do()


def broken(text: str) -> int:
    raise BrokenPipeError


def test_ctrl_c_while_the_command_is_imported_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: Sequence[str] | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nablab: interrupted\n"


def test_ctrl_c_behind_the_command_ends_the_process_silently() -> None:
    program = (
        "import atexit, os, signal, sys; from ablab import cli; sys.argv = ['ablab', '--version']; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "atexit.register(os.kill, os.getpid(), signal.SIGINT); cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, f"ablab {__version__}\n", "")
