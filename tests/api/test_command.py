"""A command in a process of its own: what it says, how it ends, and that nothing of it stays here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ablab.api import command
from ablab.api.command import Command
from ablab.errors import UserError

# In place of `ablab.cli.entry.main`: it is told what to do by its words.
STANDS_IN = """
import os, signal, sys
import ablab.cli, ablab.cli.attached as attached

def main(words):
    for word in words:
        if word.startswith("say="):
            print(word[4:], flush=True)
        elif word.startswith("err="):
            print(word[4:], file=sys.stderr, flush=True)
        elif word == "path":
            print(*sys.path[-1:], flush=True)
        elif word == "stdin":
            print(repr(sys.stdin.read()), flush=True)
        elif word == "wait":
            try:
                print("waiting", flush=True)
                signal.pause()
            except KeyboardInterrupt:
                print("saved", flush=True)
                sys.exit(130)
        else:
            sys.exit(int(word))

ablab.cli.main = main
attached.main()
"""


@pytest.fixture(autouse=True)
def _stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PROGRAM", (sys.executable, "-P", "-u", "-c", STANDS_IN))


def test_what_it_prints_is_printed_here(capsys: pytest.CaptureFixture[str]) -> None:
    Command(["say=Größe → 3", "err=a note", "say=end", "1"]).wait()  # 1: a run did not end well, as its record says
    assert capsys.readouterr() == ("Größe → 3\nend\n", "a note\n")


def test_a_mistake_is_an_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^attention=ful: no such option$"):
        Command(["err=ablab: error: attention=ful: no such option", "2"]).wait()
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UserError, match="ablab ended with status 7; what it said is above"):
        Command(["err=Traceback", "7"]).wait()
    assert capsys.readouterr().err == "Traceback\n"


def test_its_modules_are_looked_for_where_they_are_here_and_it_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    Command(["path", "stdin", "0"]).wait()
    assert capsys.readouterr().out == f"{tmp_path}\n''\n"


class Interrupting:
    """A standard output that Ctrl-C comes upon when a word is written to it."""

    def __init__(self, upon: str) -> None:
        self.upon, self.written = upon, ""

    def write(self, text: str) -> int:
        self.written += text
        if self.upon in text:
            signal.raise_signal(signal.SIGINT)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def test_ctrl_c_lets_it_save_itself_first(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Interrupting("waiting")
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(KeyboardInterrupt):
        Command(["wait"]).wait()
    assert out.written == "waiting\nsaved\n"


def test_its_own_interruption_is_one_here() -> None:
    with pytest.raises(KeyboardInterrupt):
        Command(["130"]).wait()


def test_an_error_here_ends_it_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(text: str) -> int:
        raise RuntimeError("no more")

    out = Interrupting("nothing")
    monkeypatch.setattr(out, "write", write)
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(RuntimeError, match="no more"):
        Command(["wait"]).wait()  # returns only when the process has ended


def test_it_ends_when_this_process_does(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    code = f"import json, subprocess, sys\nsubprocess.Popen({[*command.PROGRAM]!r}, stdin=0, stdout=1)"
    started = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=writer, text=True)
    os.close(writer)
    assert started.stdin is not None
    started.stdin.write(json.dumps({"words": ["wait"], "path": []}) + "\n")
    started.stdin.flush()
    with open(reader, encoding="utf-8") as said:
        assert said.readline() == "waiting\n"
        assert started.wait() == 0
        started.stdin.close()  # as the system does when whoever holds it is gone
        assert said.read() == "saved\n"


def test_nothing_stays_here() -> None:
    def state() -> tuple[object, ...]:
        handlers = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)]
        return dict(os.environ), [*sys.path], [*sys.argv], handlers, threading.active_count()

    before = state()
    Command(["0"]).wait()
    assert state() == before
