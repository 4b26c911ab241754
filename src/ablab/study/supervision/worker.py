"""The process that a run runs in, from its own side."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ablab.results.store import LOG_FILE
from ablab.training.run import execute


@dataclass(frozen=True)
class Rank:
    """One process among those of a run."""

    index: int
    of: int
    port: int  # where the first process listens, on loopback


def work(config: dict[str, Any], folder: Path, rank: Rank, progress: Connection | None) -> None:
    """Run the run. What it prints goes to its log; the terminal belongs to the supervisor.

    The process leads a session of its own, so that Ctrl-C reaches it through the supervisor alone, and whatever it
    starts can be killed with it.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _print_to(folder / LOG_FILE)
    if rank.of > 1:
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(rank.port),
            WORLD_SIZE=str(rank.of),
            RANK=str(rank.index),
            LOCAL_RANK=str(rank.index),
            NODE_RANK="0",
        )
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // rank.of))

    def report(step: int, steps: int, shown: str) -> None:
        if progress is not None:
            progress.send((step, steps, shown))

    if execute(config, folder, progress=report).status == "failed":
        sys.exit(1)  # so that the supervisor ends the other ranks, which may wait for this one forever


def _print_to(path: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
