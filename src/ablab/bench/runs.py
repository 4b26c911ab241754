"""The cost of a run beyond its training: under our supervisor, and as a process of its own. Both in turn.

Runs of the supervisor are forked from a process that has imported everything; the other one begins with nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ablab.bench.loop import compose_config
from ablab.bench.output import check_output
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.code import freeze_code
from ablab.study.supervision.supervisor import supervise


class Round(NamedTuple):
    """Seconds that one run took beyond its training steps and evaluations, in each way."""

    warm_s: float
    cold_s: float


def bench_runs(overrides: list[str], rounds: int, output: Path | None) -> str:
    """Run the comparison and describe it.

    Args:
        overrides: of the config, as for a run.
        rounds: runs in each way.
        output: a JSON file for the metrics, or None.

    Raises:
        UserError: the config cannot work, a number is out of range, or a run did not end well.
    """
    if rounds < 1:
        raise UserError(f"--rounds {rounds}: must be at least 1")
    check_output(output)
    config = compose_config([*overrides, "strategy=single"])
    Preflight().check(config)
    freeze_code([config])
    with tempfile.TemporaryDirectory() as folder:
        _warm(config, Path(folder) / "first")  # waits for the imports, which a sweep pays for once
        measured = [
            Round(_warm(config, Path(folder) / f"warm-{n}"), _cold(overrides, Path(folder) / f"cold-{n}"))
            for n in range(rounds)
        ]
    warm, cold = (median(times) for times in zip(*measured, strict=True))
    ratio = median(each.cold_s / each.warm_s for each in measured)
    if output is not None:
        metrics = {"warm_s": warm, "cold_s": cold, "ratio": ratio, "rounds": [each._asdict() for each in measured]}
        output.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return (
        f"forked from a warm process  {warm:.2f} s a run beyond its training\n"
        f"a process of its own        {cold:.2f} s\n"
        f"ratio {ratio:.1f} (median of {rounds} rounds in turn)"
    )


def _warm(config: RunConfig, folder: Path) -> float:
    begun = time.perf_counter()
    record = supervise(config, folder, lambda step, steps, shown: None)
    return _beyond(record, time.perf_counter() - begun)


def _cold(overrides: list[str], folder: Path) -> float:
    command = [sys.executable, "-m", "ablab", *overrides, "strategy=single", f"hydra.run.dir={folder}"]
    begun = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    seconds = time.perf_counter() - begun
    if ended.returncode:
        raise UserError(f"a run did not end well: {ended.stderr.strip().splitlines()[-1:]}")
    return _beyond(read_record(folder / RECORD_FILE), seconds)


def _beyond(record: Record, seconds: float) -> float:
    if record.status != "ok":
        raise UserError(f"a run did not end well: {record.reason}")
    return seconds - (record.cost.train_time_s or 0.0) - (record.cost.evaluation_time_s or 0.0)
