"""Pythons that this process starts, forked from a zygote instead; by whatever means they are started."""

from __future__ import annotations

import _posixsubprocess
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from processes import wait_for

if TYPE_CHECKING:
    from forks import Zygote


def fork_pythons(zygote: Callable[[], Zygote], starts: str) -> Callable[[], None]:
    """Let Pythons that this process starts be children of a zygote; return what undoes it.

    Args:
        starts: "runs": only those that runs are forked from; "all": all, and those that they start; "own": all.
    """
    before: Callable[..., int] = _posixsubprocess.fork_exec

    def fork_exec(args: Sequence[Any], executables: Any, close: Any, keep: Any, cwd: Any, env: Any, *more: Any) -> int:
        words = [os.fsdecode(each) for each in args]
        *streams, _, told, _, session = more[:10]
        usual = {"-c", "-m"} & set(words) and more[-2] is None  # nothing is to be done before it
        runs = "multiprocessing.forkserver" in words[-1]
        if words[0] != sys.executable or not usual or not (runs or starts != "runs"):
            return before(args, executables, close, keep, cwd, env, *more)
        files = {file: file for file in keep if file != told}
        files |= {number: file for number, file in enumerate((streams[0], streams[3], streams[5])) if file != -1}
        further: dict[str, Any] = {"session": bool(session), "starts": None if starts == "runs" else starts}
        if cwd is not None:
            further["cwd"] = os.path.abspath(os.fsdecode(cwd))
        if env is not None:
            further["env"] = dict(os.fsdecode(each).split("=", 1) for each in env)
        put(before)  # which the zygote itself is started by, if it is not there yet
        try:
            found = zygote()
        finally:
            put(fork_exec)
        process = found.child(words[1:], files, **further)
        if session:  # which whoever started it may ask for at once, and end by its number
            wait_for(lambda: os.getsid(process) == process)
        return process

    def put(do: Callable[..., int]) -> None:
        for module, name in ((_posixsubprocess, "fork_exec"), (subprocess, "_fork_exec")):
            setattr(module, name, do)

    put(fork_exec)
    return lambda: put(before)


@contextlib.contextmanager
def forking(zygote: Callable[[], Zygote], starts: str) -> Iterator[None]:
    """Have it so within a block; elsewhere than on Linux, everything is started in full."""
    undo = fork_pythons(zygote, starts) if sys.platform == "linux" else lambda: None
    try:
        yield
    finally:
        undo()
