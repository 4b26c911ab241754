"""One process of a run, in its network namespace, which it throttles anew before each block of steps."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from ablab.bench.links.network import DEVICE, address, bytes_left, bytes_left_in_the_end, throttle
from ablab.config import RunConfig
from ablab.training.callbacks import ReportProgress
from ablab.training.run import execute
from ablab.training.world import World

BLOCKS_FILE = "blocks.json"  # [[steps, seconds, bytes that left], ...] of each block, as the first process saw it
_PORT = 29_500  # in a namespace of its own nobody else has it


def main(order: Path, place: int) -> int:
    """Take part in the run that `order` describes; the exit status.

    Args:
        order: JSON: "config", "folder", and "blocks", for each the rate in bits a second (null: as it is) and the delay
            in seconds.
        place: of this process, from 0.
    """
    told = json.loads(order.read_text(encoding="utf-8"))
    os.environ["GLOO_SOCKET_IFNAME"] = DEVICE
    World(rank=place, size=2, local_rank=place, address=address(0), port=_PORT).enter()
    ReportProgress.INTERVAL_S = 0.0  # after every step
    length = told["config"]["trainer"]["log_every_n_steps"]  # of a block
    blocks: list[tuple[int, float, int]] = []
    began = 0, time.perf_counter(), bytes_left()

    def ended(step: int, steps: int, shown: str) -> None:
        nonlocal began
        if step % length or step == began[0]:
            return
        seconds = time.perf_counter() - began[1]
        left = bytes_left_in_the_end(*told["blocks"][len(blocks)])  # else they are lost with the throttle
        blocks.append((step - began[0], seconds, left - began[2]))
        if len(blocks) < len(told["blocks"]):
            throttle(*told["blocks"][len(blocks)])
        began = step, time.perf_counter(), bytes_left()

    throttle(*told["blocks"][0])
    folder = Path(told["folder"])
    record = execute(RunConfig.from_dict(told["config"]), folder, progress=ended)
    if place == 0:
        (folder / BLOCKS_FILE).write_text(json.dumps(blocks), encoding="utf-8")
    return 0 if record.status == "ok" else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
