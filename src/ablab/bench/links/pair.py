"""A run of two processes with a link between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ablab.bench.links.rank import BLOCKS_FILE
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record
from ablab.training.begin import prepare_folder

_LIMIT_S = 600.0


def run_blocks(
    config: RunConfig, planned: list[Any], names: tuple[str, str], folder: Path
) -> tuple[Record, list[tuple[int, float, int]]]:
    """Train, a process in each of the two namespaces.

    Args:
        planned: the condition of the link in each block of steps.
        names: of the namespaces.
        folder: of the run.

    Returns:
        The run's record; and of each block its steps, its seconds, and the bytes that left the first process.

    Raises:
        UserError: the run did not end well.
    """
    prepare_folder(config, folder)
    order, log = folder / "order.json", folder / "bench.log"
    order.write_text(
        json.dumps({"config": config.to_dict(), "folder": str(folder), "blocks": planned}), encoding="utf-8"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = []
    try:
        with log.open("wb") as out:
            for rank, name in enumerate(names):
                python = [sys.executable, "-m", "ablab.bench.links.rank", str(order), str(rank)]
                command = ["ip", "netns", "exec", name, *python]
                processes.append(
                    subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
                )
        _wait(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(process.returncode for process in processes) or not (folder / BLOCKS_FILE).exists():
        raise UserError(f"the run of {config.axes['strategy']} did not end well: {_why(folder, log)}")
    return read_record(folder / RECORD_FILE), json.loads((folder / BLOCKS_FILE).read_text(encoding="utf-8"))


def _wait(processes: list[subprocess.Popen[bytes]]) -> None:
    """Until all have ended, or one has failed, or it has taken too long."""
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        statuses = [process.poll() for process in processes]
        if None not in statuses or any(statuses):
            return
        time.sleep(0.05)


def _why(folder: Path, log: Path) -> str:
    if (folder / RECORD_FILE).exists() and (reason := read_record(folder / RECORD_FILE).reason):
        return reason
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return said[-1] if said else f"it took longer than {_LIMIT_S:g} s"
