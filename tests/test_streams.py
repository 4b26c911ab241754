"""Standard output that cannot be written to: what a command does is done all the same."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ablab.cli import main
from ablab.cli.commands import COMMANDS
from ablab.cli.parsing import Command
from ablab.streams import Lasting, lasting_output


class Broken(io.StringIO):
    """A stream that takes so many writes, and then raises."""

    def __init__(self, error: OSError, writes: int = 0) -> None:
        super().__init__()
        self.error, self.left = error, writes

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().write(text)


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_stream_that_breaks_is_written_to_no_more() -> None:
    broken = Broken(FULL, writes=1)
    lasting = Lasting(broken)
    for word in ("a", "b", "c"):
        print(word, end="", file=lasting, flush=True)
    assert broken.getvalue() == "a"
    assert lasting.failed is FULL
    assert broken.left == -1  # asked once


def test_what_an_encoding_lacks_is_spelled() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    Lasting(stream).write("±1 ▲\n")
    assert raw.getvalue() == b"\\xb11 \\u25b2\n"


def test_streams_are_as_they_were_afterwards() -> None:
    before = sys.stdout, sys.stderr
    with contextlib.suppress(ValueError), lasting_output() as out:
        assert sys.stdout is out
        raise ValueError
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (FULL, 1, "ablab: standard output could not be written (No space left on device)\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
    ],
)
def test_a_command_goes_on_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, status: int, said: str
) -> None:
    done = []

    def command(parser: argparse.ArgumentParser) -> Command:
        def act(options: argparse.Namespace) -> None:
            print("a line")
            done.append(True)

        return act

    monkeypatch.setitem(COMMANDS, "sync", command)
    monkeypatch.setattr(sys, "stdout", Broken(error))
    with pytest.raises(SystemExit) as ended:
        main(["sync"])
    assert (ended.value.code, done, capsys.readouterr().err) == (status, [True], said)


def test_nothing_is_left_for_the_interpreter_to_write(tmp_path: Path) -> None:
    """It would warn, and end with a status of its own."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        lasting = Lasting(full)
        lasting.write("x" * 10)
        lasting.let_go()
        assert lasting.failed is not None
        assert os.path.samestat(os.fstat(full.fileno()), os.stat(os.devnull))
        full.flush()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_who_is_started_without_streams_gets_some_that_lead_nowhere(closed: tuple[int, ...]) -> None:
    """No file that is opened later takes the number of one: what is printed would be written into it."""
    code = (
        "import os, sys\n"
        "from ablab.streams import lasting_output\n"
        "with lasting_output():\n"
        "    file = os.open(sys.argv[1], os.O_RDWR)\n"
        "    print('out'), print('err', file=sys.stderr)\n"
        "    os._exit(0 if file > 2 and sys.stdin.read() == '' else 9)\n"
    )
    redirected = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in closed)
    command = ["sh", "-c", f'exec "$0" -c "$1" /dev/null {redirected}', sys.executable, code]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
