"""NVIDIA's Multi-Process Service: with it kernels of several processes run on a GPU at the same time, not in turn."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"  # environment variable: where a process finds the service
LOGS = "CUDA_MPS_LOG_DIRECTORY"
DEFAULT_PIPES = Path("/tmp/nvidia-mps")
MOST_CLIENTS = 48  # of one device, as NVIDIA states it
_PATIENCE_S = 10.0


def at_hand() -> str:
    """Why MPS cannot be used here, in some words; "" where it can."""
    if not sys.platform.startswith("linux"):
        return "it is there on Linux alone"
    if _running(_pipes()):
        return ""
    return "" if shutil.which(CONTROL) else f"there is no {CONTROL} on the PATH"


@dataclass(frozen=True)
class Service:
    """MPS as runs find it, or why they go without."""

    reason: str = ""  # why they do; "": they have it
    environment: dict[str, str] = field(default_factory=dict)  # of its clients

    @property
    def used(self) -> bool:
        return not self.reason


@contextlib.contextmanager
def service(devices: Sequence[str]) -> Iterator[Service]:
    """MPS for as long as the block takes: that which is running already, or one of our own that ends with the block.

    Args:
        devices: for which, by UUID: a number would name another device to the processes that use the service. None:
            then it is not started.
    """
    if reason := at_hand():
        yield Service(reason)
        return
    if _running(pipes := _pipes()):
        yield Service(environment={PIPES: str(pipes)})
        return
    if not devices:
        yield Service("nvidia-smi does not tell the devices apart")
        return
    with tempfile.TemporaryDirectory(prefix="ablab-mps-", ignore_cleanup_errors=True) as folder:
        own = {PIPES: f"{folder}/pipe", LOGS: f"{folder}/log"}
        for path in own.values():
            Path(path).mkdir()
        environment = os.environ | own | {"CUDA_VISIBLE_DEVICES": ",".join(devices)}
        if failure := _told([CONTROL, "-d"], environment):
            yield Service(f"{CONTROL} did not start: {failure}")
            return
        try:
            yield Service(environment=own)
        finally:
            _told([CONTROL], environment, "quit\n")


def _pipes() -> Path:
    return Path(os.environ.get(PIPES, DEFAULT_PIPES))


def _running(pipes: Path) -> bool:
    """Whether a service listens there: its process number is in a file, and it lives."""
    try:
        pid = int((pipes / f"{CONTROL}.pid").read_text(encoding="ascii"))
        os.kill(pid, 0)
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _told(words: list[str], environment: dict[str, str], said: str = "") -> str:
    """Run a command of the service's; what went wrong, "" if nothing did."""
    try:
        done = subprocess.run(
            words, input=said, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else " ".join((done.stderr or done.stdout).split()) or f"status {done.returncode}"
