"""One supervisor at a time works in a folder, and a dead one's lock holds nobody up."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for

from ablab.cli.application import refuse
from ablab.errors import UserError
from ablab.study.supervision import lock
from ablab.study.supervision.lock import LOCK_FILE, OWNER_FILE, StudyLock, run_lock

HOLD = """
import sys
from pathlib import Path
from ablab.study.supervision import lock
from ablab.study.supervision.lock import StudyLock
with StudyLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_supervisor_is_refused_and_a_dead_one_taken_over(tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        with pytest.raises(UserError, match=rf"process {process.pid} on .* works on this study; wait for it, or end"):
            StudyLock(tmp_path).__enter__()
        process.kill()
        process.wait()
    with StudyLock(tmp_path) as held:
        assert held.taken_over is not None
        assert f"process {process.pid}" in held.taken_over
    assert not (tmp_path / OWNER_FILE).exists()
    with StudyLock(tmp_path) as held:
        assert held.taken_over is None


def test_an_owner_on_another_machine_lives_as_long_as_it_says_so(tmp_path: Path) -> None:
    """Its lock may not be seen here: not every network file system tells of locks."""
    owner = {"host": "elsewhere", "pid": 1, "beat": time.time() - 5}
    (tmp_path / OWNER_FILE).write_text(json.dumps(owner))
    with pytest.raises(UserError, match=r"process 1 on elsewhere works on this study, or died less than 60 s ago"):
        StudyLock(tmp_path).__enter__()
    (tmp_path / OWNER_FILE).write_text(json.dumps(owner | {"beat": time.time() - 61}))
    with StudyLock(tmp_path) as held:
        assert held.taken_over == "process 1 on elsewhere"
    (tmp_path / OWNER_FILE).write_text(json.dumps(owner | {"beat": time.time() + 3600}))  # before the clock was set
    with StudyLock(tmp_path) as held:
        assert held.taken_over == "process 1 on elsewhere"


@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_what_owners_say_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    """On a file system that has none; and nothing lies there that would outlive a dead owner."""

    def flock(*_: object) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(fcntl, "flock", flock)
    owner = {"host": "elsewhere", "pid": 1, "beat": time.time() - 61}
    (tmp_path / LOCK_FILE).touch()
    (tmp_path / OWNER_FILE).write_text(json.dumps(owner))
    with StudyLock(tmp_path) as held, run_lock(tmp_path / "run", 0):
        assert held.taken_over == "process 1 on elsewhere"
    (tmp_path / OWNER_FILE).write_text(json.dumps(owner | {"beat": time.time() - 5}))
    with pytest.raises(UserError, match="process 1 on elsewhere works on this study"):
        StudyLock(tmp_path).__enter__()


def test_the_heart_beats_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 1000.0}
    monkeypatch.setattr(time, "time", lambda: clock["now"])
    with StudyLock(tmp_path) as held:
        beats = []
        for clock["now"] in (1001.0, 1011.0, 1012.0, 1022.0, 400.0):  # at last set back
            held.beat()
            beats.append(json.loads((tmp_path / OWNER_FILE).read_text())["beat"])
    assert beats == [1000.0, 1011.0, 1011.0, 1022.0, 400.0]


def test_the_heart_beats_by_itself_while_others_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    note, threads = tmp_path / OWNER_FILE, threading.active_count()
    with StudyLock(tmp_path) as held:
        before = note.read_text()
        with held.beating():
            wait_for(lambda: note.read_text() != before)
        assert threading.active_count() == threads


def test_a_damaged_note_of_an_owner_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / OWNER_FILE).write_text("{")
    with StudyLock(tmp_path) as held:
        assert held.taken_over is None


def test_one_process_at_a_time_works_on_a_run(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(UserError, match="another process works on this run"), run_lock(tmp_path, 0):
        pass
    with run_lock(tmp_path, 0):
        pass


def test_a_disk_that_cannot_be_written_to_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `ablab resume` and a sweep meet it: with the file, the system's words and status 2."""
    opened = os.open

    def read_only(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OSError, match="Read-only file system") as caught:
        StudyLock(tmp_path).__enter__()
    with pytest.raises(SystemExit) as ended:
        refuse(caught.value)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"ablab: error: {tmp_path / '.lock'}: Read-only file system\n"
