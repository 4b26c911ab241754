"""A run of two processes on one GPU: `python -m ablab.bench.gpu.ranks FILE KEY=VALUE ...`.

NCCL refuses two processes on one device unless they say that they are on two machines, so they are two nodes that
speak over loopback: what is computed and sent is real, how fast it is says nothing of two GPUs. What came of the run is
written as one JSON file. A run that stands still is ended, and says where each process stood.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record, write_atomically

STEPS = 40
HANG_S = 15
FAREWELL_S = 4.0  # for processes that were interrupted
_FOLDER = "ranks"
_ALONE = {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}


def run(output: Path, overrides: list[str]) -> bool:
    """Run it in a folder beside `output`; whether it ended well."""
    folder = output.resolve().parent / _FOLDER
    settings = [
        *("seed=0", "trainer.devices=1", "trainer.num_nodes=2", "name=ranks", f"hydra.run.dir={folder}"),
        *(f"trainer.max_steps={STEPS}", f"trainer.val_check_interval={STEPS}", "trainer.log_every_n_steps=10"),
        *(f"hang_timeout={HANG_S}", "logger={}"),
    ]
    words = [sys.executable, "-m", "ablab", *settings, *overrides]
    port = _free_port()
    processes = [subprocess.Popen(words, env=_environment(rank, port)) for rank in range(2)]
    statuses = []
    try:
        statuses = [process.wait() for process in processes]
    except KeyboardInterrupt:  # both have heard it, too, and write what they have
        with contextlib.suppress(subprocess.TimeoutExpired):
            statuses = [process.wait(timeout=FAREWELL_S / len(processes)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        write_atomically(output, json.dumps(_told(folder, statuses)) + "\n")
    return not any(statuses) and bool(statuses)


def _environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun would tell the only process of each of two nodes."""
    place = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "GROUP_RANK": rank}
    told = {name: str(value) for name, value in place.items()}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NCCL_HOSTID": f"node{rank}"}
    return {**os.environ, **_ALONE, **told, **meeting}


def _free_port() -> int:
    with socket.socket() as trying:
        trying.bind(("127.0.0.1", 0))
        return int(trying.getsockname()[1])


def _told(folder: Path, statuses: list[int]) -> dict[str, Any]:
    """The run in numbers, from its record if it left one."""
    exits = ", ".join(map(str, statuses)) or "none"
    try:
        record = read_record(folder / RECORD_FILE)
    except UserError:
        return {"status": "no record", "reason": f"exit statuses: {exits}"}
    return {"status": record.status, "reason": record.reason or "", **_numbers(record)}


def _numbers(record: Record) -> dict[str, Any]:
    sent = record.communication
    backend = {"backend": sent.backend, "MB a step": sent.sent_bytes_per_step / 1e6} if sent else {}
    loss = {name: value for name, value in record.metrics.items() if name == "val_loss"}
    stood = {"stood at": record.traceback.strip().splitlines()[-1].strip()} if record.traceback else {}
    return {**backend, **loss, "steps": record.cost.steps, "seconds": record.cost.wall_time_s or 0.0, **stood}


if __name__ == "__main__":
    sys.exit(0 if run(Path(sys.argv[1]), sys.argv[2:]) else 1)
