"""When nothing goes on in a run, and who is to blame."""

from __future__ import annotations

import pytest

from ablab.study.supervision.watchdog import StackReport, Watchdog, at_fault, stack_traces

WAITING = [("/lib/lightning/trainer.py", 5, "run"), ("/lib/torch/autograd/graph.py", 979, "_engine_run_backward")]
WORKING = [("/lib/lightning/trainer.py", 5, "run"), ("/home/mine.py", 3, "loop")]


def test_time_counts_while_no_process_goes_on() -> None:
    beats, now = [0, 0], [0.0]
    watch = Watchdog(beats, 3.0, lambda: now[0])

    def after(seconds: float) -> bool:
        now[0] += seconds
        return watch.is_stuck()

    assert [after(1.0) for _ in range(5)] == [False, False, False, False, True]
    beats[1] += 1  # one is enough: the other may wait for it
    assert [after(1.0) for _ in range(5)] == [False, False, False, False, True]
    beats[0] += 1
    assert not after(1.0)
    assert not after(1000.0), "the supervisor itself was stopped: the run had no time either"
    assert not Watchdog(beats, None, lambda: now[0]).is_stuck()


@pytest.mark.parametrize(
    ("one", "other", "fault", "words"),
    [
        (StackReport(0, WAITING, 5), StackReport(1, WORKING, 5), 1, "process 1 of 2 hangs in loop (mine.py:3)"),
        (StackReport(0, WORKING, 5), StackReport(1, WAITING, 3), 0, "process 0 of 2 hangs in loop (mine.py:3)"),
        (StackReport(0, WORKING, 5), StackReport(1, WORKING, 3), 1, "process 1 of 2 hangs in loop (mine.py:3)"),
        (
            StackReport(0, WORKING, 5),
            StackReport(1, [], 9),
            1,
            "process 1 of 2 does not answer, and the others wait for it",
        ),
        (StackReport(0, WAITING, 5), StackReport(1, WAITING, 5), 0, "all 2 processes wait for each other"),
        (
            *(StackReport(0, WAITING, 5), StackReport(1, [], 5, stopped=True), 1),
            "process 1 of 2 was stopped (SIGSTOP), and the others wait for it",
        ),
        (
            *(StackReport(0, [], 5), StackReport(1, WAITING, 5, ended=True), 1),
            "process 1 of 2 has ended, and the others wait for it",
        ),
    ],
)
def test_who_is_at_fault(one: StackReport, other: StackReport, fault: int, words: str) -> None:
    for order in ((one, other), (other, one)):
        found = at_fault(order)
        assert (found.rank, found.described(2)) == (fault, words)


def test_where_they_stood() -> None:
    assert stack_traces([StackReport(0, WAITING), StackReport(1, WORKING)]).splitlines() == [
        "stack trace of rank 1:",
        '  File "/lib/lightning/trainer.py", line 5, in run',
        '  File "/home/mine.py", line 3, in loop',
        "stack trace of rank 0:",
        '  File "/lib/torch/autograd/graph.py", line 979, in _engine_run_backward',
    ]
