"""What the record says of an end of which each process, and the supervisor, knows a part."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from ablab.results.record import Record
from ablab.study.supervision.ending import Ending, last_words, printed_since
from ablab.study.supervision.resources import Rendezvous
from ablab.study.supervision.watchdog import StackReport
from ablab.training.failures import Failure

KILL, TERM, ABORT = -signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT
WAITING, WORKING = [("torch/distributed/x.py", 5, "all_reduce")], [("mine.py", 3, "loop")]


def record(status: Any = "failed", reason: str | None = "process 0's words") -> Record:
    return Record(status=status, reason=reason, fingerprint="", study="", variant="", seed=0, axes={}, config={})


def failed(rank: int, at: float, lost: bool = False) -> Failure:
    return Failure(rank=rank, reason=f"Error of {rank}", cause="error", traceback=f"of {rank}", at=at, lost=lost)


@pytest.mark.parametrize(
    ("ending", "reason", "cause", "traceback"),
    [
        # The second to raise, and the one that lost its connection before that, are not the first cause.
        (
            Ending(exits=[1, 1, 1], first=[0], failures=[failed(0, 1.0, lost=True), failed(2, 2.0), failed(1, 3.0)]),
            *("process 2 of 3: Error of 2", "error", "of 2"),
        ),
        # What another process's death made of it, however it is put, is not the cause; nor is what we killed ourselves.
        (
            Ending(exits=[1, KILL, KILL], first=[1], sent=frozenset({9, 15}), failures=[failed(0, 1.0, lost=True)]),
            *("process 1 of 3 was killed by SIGKILL (see run.log)", "killed", None),
        ),
        (
            Ending(exits=[1, KILL], first=[0], sent=frozenset({9, 15}), failures=[failed(0, 1.0, lost=True)]),
            *("process 0 of 2: Error of 0", "error", "of 0"),
        ),
        (
            Ending(exits=[ABORT, 1], first=[0], failures=[failed(1, 1.0)]),
            *("process 1 of 2: Error of 1", "error", "of 1"),
        ),
        (
            Ending(exits=[0, KILL], first=[1], out_of_memory=True),
            *("out of memory: process 1 of 2 was killed by the kernel", "memory", None),
        ),
        (
            Ending(exits=[TERM, 3], first=[1], sent=frozenset({15})),
            *("process 1 of 2 ended with exit status 3 (see run.log)", "killed", None),
        ),
        # What native code said before it ended the process; of one that was killed, nothing that it printed tells why.
        (
            Ending(
                exits=[0, ABORT], first=[1], printed="step 3\nterminate called after throwing 'X'\n  what():  boom\n"
            ),
            "process 1 of 2 was killed by SIGABRT: terminate called after throwing 'X' what(): boom (see run.log)",
            *("killed", None),
        ),
        (
            Ending(exits=[0, KILL], first=[1], printed="Fatal: not of this end\n"),
            *("process 1 of 2 was killed by SIGKILL (see run.log)", "killed", None),
        ),
        # All have left an account, and so none has ended without a word: it is the first, wherever that was raised.
        (
            Ending(
                exits=[1, 1],
                first=[0, 1],
                failures=[failed(1, 1.0, lost=True), failed(0, 2.0, lost=True)],
                reports=[StackReport(0, WAITING), StackReport(1, [], ended=True)],
            ),
            *("process 1 of 2: Error of 1", "error", "of 1"),
        ),
        # Whoever goes without a word is what the others lost, whatever they say.
        (
            Ending(
                exits=[1, 3],
                first=[1],
                failures=[failed(0, 1.0, lost=True)],
                reports=[StackReport(rank=0, stack=WORKING)],
            ),
            *("process 1 of 2 ended with exit status 3 (see run.log)", "killed", None),
        ),
        # The time limit of the connection came before our own.
        (
            Ending(
                exits=[1, KILL],
                first=[0],
                sent=frozenset({9, 15}),
                failures=[failed(0, 1.0, lost=True)],
                reports=[StackReport(1, WORKING)],
            ),
            *(
                "process 1 of 2 hangs in loop (mine.py:3); process 0 of 2: Error of 0",
                "hung",
                'stack trace of rank 1:\n  File "mine.py", line 3, in loop',
            ),
        ),
        (
            Ending(exits=[1, KILL], first=[0], sent=frozenset({9}), why=("timeout", "too long", None)),
            *("too long", "timeout", None),
        ),
    ],
)
@pytest.mark.parametrize("written", [True, False])
def test_the_first_cause(ending: Ending, reason: str, cause: str, traceback: str | None, written: bool) -> None:
    told = record()
    assert ending.tell(told, written)
    assert (told.status, told.reason, told.cause, told.traceback) == ("failed", reason, cause, traceback)


@pytest.mark.parametrize(
    ("ending", "written"),
    [
        (Ending(exits=[0, KILL], first=[1], failures=[failed(1, 1.0)]), record("ok", None)),
        (Ending(exits=[0, 0], why=(None, "stopped", None)), record("diverged", "nan")),
        (Ending(exits=[1]), record()),
        (Ending(exits=[0, 0]), record("interrupted", "stopped")),
    ],
)
def test_the_first_process_knows_best(ending: Ending, written: Record) -> None:
    before = written.to_dict()
    assert not ending.tell(written, True)
    assert written.to_dict() == before


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("", ""),
        ("epoch 1: loss 2.5\nUserWarning: slow\n", ""),
        ("free(): invalid pointer\n", "free(): invalid pointer"),
        ("x\npython: a.c:1: f: Assertion `n > 0' failed.\n", "python: a.c:1: f: Assertion `n > 0' failed."),
        (
            "terminate called\n  what():  CUDA error\nException raised from f (at 0x7f)\n",
            "terminate called what(): CUDA error",
        ),
        (f"Fatal \x1b[31m{'x' * 300}\n", f"Fatal ?[31m{'x' * 189}..."),
        ("Fatal: of long ago\n" + "line\n" * 30, ""),
    ],
)
def test_the_last_words_of_native_code(printed: str, words: str) -> None:
    assert last_words(printed) == words


def test_the_log_of_this_attempt(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert printed_since(log, 0) == ""
    log.write_bytes(b"of an earlier one\n" + b"\xff of this\n")
    assert printed_since(log, 18) == "\ufffd of this\n"
    log.write_bytes(b"x" * 100_000)
    assert 0 < len(printed_since(log, 0)) < 10_000


def test_a_run_that_was_stopped_has_no_cause() -> None:
    told = record("interrupted")
    assert Ending(exits=[0, 0], why=(None, "Ctrl-C", None)).tell(told, True)
    assert (told.status, told.reason, told.cause) == ("interrupted", "Ctrl-C", None)


def test_two_meetings_at_once_are_two() -> None:
    one, other = Rendezvous(), Rendezvous()
    stores = [dist.TCPStore("127.0.0.1", meeting.port, is_master=False) for meeting in (one, other)]
    stores[0].set("rank", "1")
    assert not stores[1].check(["rank"])
    assert stores[0].get("rank") == b"1"
    del stores
    one.close()
    other.close()
