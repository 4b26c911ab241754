"""Training speed of ways of spreading a run over processes: whole runs in turn, each with all the cores."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import pandas as pd

from ablab.bench.loop import compose_config
from ablab.bench.output import check_output
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.code import freeze_code
from ablab.study.supervision.supervisor import supervise


@dataclass(frozen=True)
class Speed:
    """The measurements of one strategy, round by round."""

    strategy: str
    processes: int
    threads: int  # of each process
    tokens_per_second: list[float]
    ratios: list[float]  # to the first way, in the same round
    sent_bytes_per_step: float  # by each process


def bench_strategies(
    overrides: list[str], strategies: Sequence[str], steps: int, rounds: int, output: Path | None
) -> str:
    """Train with each strategy in turn, round after round, and describe their speeds beside the first one's.

    Args:
        overrides: of the config, as for a run.
        strategies: options of the axis; each may bring settings of its own, as in "ddp,strategy.bucket_cap_mb=1".
        steps: of each run; the first ones are not timed.
        rounds: of all of them.
        output: a JSON file for the metrics, or None.

    Raises:
        UserError: a config cannot work, a number is out of range, or a run did not end well.
    """
    if rounds < 1:
        raise UserError(f"--rounds {rounds}: must be at least 1")
    check_output(output)
    length = [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}", "logger={}"]
    configs = {}
    for name in strategies:
        option, *settings = name.split(",")
        configs[name] = compose_config([*overrides, *length, f"strategy={option}", *settings])
    preflight = Preflight()
    for config in configs.values():
        preflight.check(config)
    freeze_code(configs.values())
    records: dict[str, list[Record]] = {name: [] for name in configs}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for place, (name, config) in enumerate(configs.items()):
                record = supervise(config, Path(folder) / f"{turn}-{place}", lambda step, steps, shown: None)
                if record.status != "ok":
                    raise UserError(f"the run of {name} did not end well: {record.reason}")
                records[name].append(record)
    first = [_speed(record) for record in next(iter(records.values()))]
    speeds = [_measured(name, own, first) for name, own in records.items()]
    if output is not None:
        parameters = next(iter(records.values()))[0].cost.parameters
        metrics = {"parameters": parameters, "speeds": [asdict(speed) for speed in speeds]}
        output.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return _table(speeds, rounds)


def _measured(name: str, records: list[Record], first: list[float]) -> Speed:
    own, last = [_speed(record) for record in records], records[-1]
    sent = last.communication.sent_bytes_per_step if last.communication else 0.0
    return Speed(
        strategy=name,
        processes=last.communication.processes if last.communication else 1,
        threads=last.machine["threads"],
        tokens_per_second=own,
        ratios=[mine / its for mine, its in zip(own, first, strict=True)],
        sent_bytes_per_step=sent,
    )


def _speed(record: Record) -> float:
    if record.cost.tokens_per_second is None:
        raise UserError("--steps: too few, nothing is left to be timed; give more")
    return record.cost.tokens_per_second


def _table(speeds: list[Speed], rounds: int) -> str:
    rows = [
        {
            "strategy": speed.strategy,
            "processes x threads": f"{speed.processes} x {speed.threads}",
            "tokens/s": f"{median(speed.tokens_per_second):,.0f}",
            "ratio": f"{median(speed.ratios):.2f}",
            "least": f"{min(speed.ratios):.2f}",
            "most": f"{max(speed.ratios):.2f}",
            "sent MB/step": f"{speed.sent_bytes_per_step / 1e6:.3f}",
        }
        for speed in speeds
    ]
    words = f"ratio to {speeds[0].strategy} in the same round: median, least and most of {rounds} rounds in turn"
    return f"{pd.DataFrame(rows).to_string(index=False)}\n{words}"
