"""Several processes of one job, without a supervisor: a function called in each of them at once."""

from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from known_costs import counted

from ablab.config import RunConfig
from ablab.results.record import Cost, Record
from ablab.study.supervision.code import CONTEXT, warm_up
from ablab.training import trainer as trainers
from ablab.training.begin import prepare_folder
from ablab.training.run import execute


def together(function: Callable[..., Any], processes: int, *args: Any, group: bool = True) -> list[Any]:
    """What `function(rank, *args)` returns in each process. It must be one of a module's, not of a test's.

    Args:
        group: there is a process group already, of gloo.
    """
    warm_up()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes, started = [], []
    for rank in range(processes):
        reader, writer = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_work, args=(function, rank, processes, port, group, writer, args))
        process.start()
        writer.close()
        pipes.append(reader)
        started.append(process)
    try:
        return [torch.load(io.BytesIO(reader.recv_bytes()), weights_only=False) for reader in pipes]
    finally:
        for process in started:
            process.join(timeout=60)
            process.kill()


def interrupt(config: RunConfig, folder: Path, step: int) -> None:
    """A run of several processes that is asked to stop at `step`."""
    prepare_folder(config, folder)
    ends = together(_interrupted, config.processes, config, folder, step, counted(config), group=False)
    assert ends[0].status == "interrupted", ends[0].reason


def _work(
    function: Callable[..., Any],
    rank: int,
    processes: int,
    port: int,
    group: bool,
    writer: Connection,
    args: tuple[Any, ...],
) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(processes),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # as runs do when they are ready for it
    torch.set_num_threads(1)
    if group:
        dist.init_process_group("gloo")
    result = io.BytesIO()
    torch.save(function(rank, *args), result)
    writer.send_bytes(result.getvalue())
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _interrupted(rank: int, config: RunConfig, folder: Path, step: int, known: Cost | None) -> Record:
    from test_resume import Both, Curves, StopAt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "Curves", lambda every: Both(Curves(every), StopAt(step)))
        return execute(config, folder, counted=known)
