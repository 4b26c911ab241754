"""Where a process stands, asked from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from ablab.training.stacks import Frame, ask, forget_stacks, in_debugger, is_stopped, shown, stack_of, waits

SCRIPT = """
import sys, threading, time
from pathlib import Path
from ablab.training.stacks import answer

def elsewhere():
    time.sleep(1000)

def here():
    print("ready", flush=True)
    while True:
        sum(range(10_000_000))  # holds the lock on Python all the time

threading.Thread(target=elsewhere, daemon=True).start()
answer(Path(sys.argv[1]), 3)
here()
"""


def test_a_process_that_never_pauses_tells_where_its_main_thread_is(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert not is_stopped(process.pid)
            for _ in range(2):  # the second answer counts
                before = (tmp_path / ".stack-3.txt").stat().st_size
                ask(process.pid)
                stack: list[Frame] = []
                while (tmp_path / ".stack-3.txt").stat().st_size == before or len(stack) < 2:
                    stack = stack_of(tmp_path, 3)  # once: the next answer may be half written
            assert [function for _, _, function in stack] == ["<module>", "here"]
            assert shown(stack)[-1] == f'  File "<string>", line {stack[-1][1]}, in here'
            assert not waits(stack)
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            assert is_stopped(process.pid)
        finally:
            process.kill()
    assert stack_of(tmp_path, 4) == []
    forget_stacks(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_whoever_stands_at_a_breakpoint_takes_their_time(tmp_path: Path) -> None:
    """By the stack of a process that waits for what is typed."""
    script = """
import faulthandler, sys
from pathlib import Path
from ablab.training.stacks import answer_in, open_answers
file = open_answers(Path(sys.argv[1]), 0)
answer_in(0.2, file)
breakpoint()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        try:
            stack: list[Frame] = []
            while process.poll() is None and not (stack and stack[0][2] == "<module>"):
                stack = stack_of(tmp_path, 0)
        finally:
            process.kill()
    assert in_debugger(stack)
    assert not in_debugger([("/home/mine/pdbs.py", 3, "loop")])
