"""Where the processes of a run stand: asked by a signal, answered by `faulthandler` even where Python stands still."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import threading
from pathlib import Path
from typing import TextIO

ASK = signal.SIGUSR2  # schedulers send it, too: then there is an answer that nobody reads
_FILES = ".stack-{}.txt"
_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-f]+)")
_INSTALLED = re.compile(r'^  File ".*/site-packages/')
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')
# What a process that waits for the others has as its innermost frame: a collective, or a backward pass that ends in it.
_WAITS = (
    *("torch/distributed/", "torch/autograd/", "torch/nn/parallel/", "torch/futures/"),
    *(f"ablab/training/{file}.py" for file in ("strategies/replicas", "strategies/compressed", "traffic/counter")),
)
_ON_THE_WAY = "torch/_ops.py"  # between a functional collective and what it calls

_open: list[TextIO] = []  # faulthandler writes to files that must not be closed

Frame = tuple[str, int, str]  # file, line, function


def answer(folder: Path, rank: int) -> TextIO:
    """From now on this process writes its stack to a file in `folder` when it is asked to, or crashes; the file."""
    file = open_answers(folder, rank)
    _open.append(file)
    faulthandler.enable(file, all_threads=True)
    faulthandler.register(ASK, file, all_threads=True)
    return file


def open_answers(folder: Path, rank: int) -> TextIO:
    """Open the file for the stack of this process."""
    file = (folder / _FILES.format(rank)).open("w", encoding="utf-8")
    file.write(f"{threading.main_thread().ident:#018x}\n")
    file.flush()
    return file


def answer_in(seconds: float, file: TextIO) -> None:
    """Write the stack in so many seconds, without having been asked. Each call puts off what the one before began."""
    faulthandler.dump_traceback_later(seconds, file=file)


def ask(pid: int) -> None:
    """Ask a process for its stack. One that was stopped, or that the kernel holds, does not answer."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, ASK)


def is_stopped(pid: int) -> bool:
    """Whether somebody has sent it SIGSTOP; False where the system does not tell."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in ("T", "t")


def stack_of(folder: Path, rank: int) -> list[Frame]:
    """The last answer: the frames of its main thread, the innermost last; empty if there is none."""
    try:
        main, *lines = (folder / _FILES.format(rank)).read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return []
    frames: list[Frame] = []
    within = False
    for line in lines:
        if thread := _THREAD.match(line):
            within = thread[1] == main
            frames = [] if within else frames  # of an earlier answer
        elif within and (frame := _FRAME.match(line)):
            frames.insert(0, (frame[1], int(frame[2]), frame[3]))
    return frames


def waits(stack: list[Frame]) -> bool:
    """Whether a process with this stack waits for the others."""
    files = [file.replace(os.sep, "/") for file, *_ in stack]
    innermost = next((file for file in reversed(files) if not file.endswith(_ON_THE_WAY)), "")
    return any(part in innermost for part in _WAITS)


def in_debugger(stack: list[Frame]) -> bool:
    """Whether a process with this stack stands at a breakpoint, where somebody takes their time."""
    return any(Path(file).name in ("pdb.py", "bdb.py") or "pydevd" in file for file, *_ in stack)


def shown(stack: list[Frame]) -> list[str]:
    """As in a traceback, a line per frame."""
    return [shorter(f'  File "{file}", line {line}, in {function}') for file, line, function in stack]


def shorter(line: str) -> str:
    """A line of a traceback, without the folder that packages are installed in."""
    return _INSTALLED.sub('  File "', line)


def forget_stacks(folder: Path) -> None:
    for path in folder.glob(_FILES.format("*")):
        path.unlink(missing_ok=True)
