"""Step times by the model beside those over links of known bandwidth and delay.

A strategy's two processes run in two network namespaces, once. Between blocks of steps the link between them is
throttled anew, in turn, so that what else the machine does falls on all conditions alike. The blocks without throttle
give the model the one figure that it cannot know, how long a step takes where the network takes no time, together with
the bytes and the overlap that the record holds; the others are predicted.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from ablab.bench.links.network import BUCKET_BYTES, check_throttle, namespaces, payload_link
from ablab.bench.links.pair import run_blocks
from ablab.bench.loop import compose_config
from ablab.bench.output import check_output
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.communication import Communication
from ablab.results.step_time import Step, step
from ablab.study.planning.preflight import Preflight
from ablab.training.traffic.callback import is_timed

STRATEGIES = ("ddp", "ddp_bf16", "ddp_powersgd", "local_sgd")
RATES = (50.0, 200.0, 1000.0)  # Mbit/s
# A model whose gradient is worth sending, small enough for a slow link; the first overrides that a user can change.
_SETTING = (
    *("model.d_model=128", "model.n_layers=4", "task.seq_len=128", "task.batch_size=8", "task.eval_tokens=1024"),
    *("trainer.accelerator=cpu", "logger=csv"),
)
_FREE = (None, 0.0)  # not throttled


@dataclass(frozen=True, kw_only=True)
class Request:
    """The user's request.

    Args:
        overrides: of the config, as for a run.
        rates: in Mbit/s.
        delay_ms: of each direction, with every rate.
        steps: of a block.
        rounds: blocks at each rate.
        output: a JSON file for the figures, or None.
    """

    overrides: list[str]
    strategies: tuple[str, ...] = STRATEGIES
    rates: tuple[float, ...] = RATES
    delay_ms: float = 0.0
    steps: int = 10
    rounds: int = 3
    output: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One strategy at one rate. Seconds are of a step, a median over blocks."""

    strategy: str
    mbit_per_s: float
    delay_ms: float
    payload_bytes: float  # of a process and step
    wire_bytes: float  # that left the first process in a step, with headers and acknowledgements
    free_s: float  # without throttle
    overlap: float  # as measured without throttle
    measured_s: float
    predicted_s: float
    shortest_s: float  # had all been hidden that can be
    longest_s: float  # had nothing been hidden
    free_each_s: list[float]  # block by block
    measured_each_s: list[float]

    @property
    def ratio(self) -> float:
        return self.predicted_s / self.measured_s


def bench_links(request: Request) -> str:
    """Run the comparison and describe it.

    Raises:
        UserError: the config cannot work, a number is out of range, this system or this user cannot make namespaces,
            or a run did not end well.
    """
    configs = _checked(request)
    compared = []
    with namespaces() as names, tempfile.TemporaryDirectory() as folder:
        for rate in request.rates:
            check_throttle(names[0], rate * 1e6, request.delay_ms / 1e3)
        for strategy, config in configs.items():
            compared += _compare(strategy, config, request, names, Path(folder) / strategy)
    if request.output is not None:
        figures = [asdict(each) | {"ratio": each.ratio} for each in compared]
        request.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return described(compared)


def described(compared: list[Compared]) -> str:
    """A line for each comparison, and the largest disagreement."""
    width = max(len("strategy"), *(len(each.strategy) for each in compared))
    lines = [f"{'strategy':{width}}  Mbit/s  free ms  predicted ms  (from ... to)      measured ms  ratio"]
    for each in compared:
        interval = f"({each.shortest_s * 1e3:.1f} ... {each.longest_s * 1e3:.1f})"
        lines.append(
            f"{each.strategy:{width}}  {each.mbit_per_s:>6g}  {each.free_s * 1e3:>7.1f}  "
            f"{each.predicted_s * 1e3:>12.1f}  {interval:<17}  {each.measured_s * 1e3:>11.1f}  {each.ratio:>5.2f}"
        )
    worst = max(compared, key=lambda each: abs(each.ratio - 1))
    lines.append(
        f"predicted / measured furthest from 1: {worst.ratio:.2f}, {worst.strategy} at {worst.mbit_per_s:g} Mbit/s"
    )
    return "\n".join(lines)


def blocks(conditions: list[Any], rounds: int) -> list[Any]:
    """Which condition each block of steps has: free ones first and where time in communication is taken, all in turn.

    The first block is a warm-up.
    """
    turns = [*conditions, _FREE]
    planned: list[Any] = [_FREE]
    taken = 0
    while taken < rounds * len(turns):
        if is_timed(len(planned)):
            planned.append(_FREE)
        else:
            planned.append(turns[taken % len(turns)])
            taken += 1
    return planned


def _checked(request: Request) -> dict[str, RunConfig]:
    """The config of each strategy's run."""
    for name in ("steps", "rounds"):
        if getattr(request, name) < 1:
            raise UserError(f"--{name} {getattr(request, name)}: must be at least 1")
    for rate in request.rates:
        if not 0 < rate < math.inf:
            raise UserError(f"--rates {rate:g}: must be above 0, in Mbit/s")
    if not 0 <= request.delay_ms < math.inf:
        raise UserError(f"--delay {request.delay_ms:g}: must be at least 0, in milliseconds")
    check_output(request.output)
    total = request.steps * len(blocks([*request.rates], request.rounds))
    configs = {}
    for strategy in dict.fromkeys(request.strategies):
        asked = [
            *(*_SETTING, *request.overrides, f"strategy={strategy}", "trainer.devices=2"),
            *(f"trainer.max_steps={total}", f"trainer.val_check_interval={total}"),
            f"trainer.log_every_n_steps={request.steps}",
        ]
        config = compose_config(asked)
        if config.options["strategy"].get("warmup_steps"):  # in which it sends something else
            config = compose_config([*asked, "strategy.warmup_steps=0"])
        if config.processes != 2:
            raise UserError(f"--strategies {strategy}: has nothing to send, it is of one process")
        if request.steps % (period := config.options["strategy"].get("period", 1)):
            raise UserError(f"--steps {request.steps}: must be a multiple of {period}, so that all blocks send alike")
        Preflight().check(config)
        configs[strategy] = config
    return configs


def _compare(
    strategy: str, config: RunConfig, request: Request, names: tuple[str, str], folder: Path
) -> list[Compared]:
    delay = request.delay_ms / 1e3
    conditions = [(rate * 1e6, delay) for rate in request.rates]
    planned = blocks(conditions, request.rounds)
    record, measured = run_blocks(config, planned, names, folder)
    assert record.communication is not None
    free = [seconds / steps for steps, seconds, _ in _of(planned, measured, _FREE)]
    found = []
    for rate, condition in zip(request.rates, conditions, strict=True):
        told = predicted(record.communication, median(free), rate * 1e6, delay)
        each = [seconds / steps for steps, seconds, _ in _of(planned, measured, condition)]
        found.append(
            Compared(
                strategy=strategy,
                mbit_per_s=rate,
                delay_ms=request.delay_ms,
                payload_bytes=record.communication.payload_bytes_per_step,
                wire_bytes=median(sent / steps for steps, _, sent in _of(planned, measured, condition)),
                free_s=median(free),
                overlap=told.overlap,
                measured_s=median(each),
                predicted_s=told.seconds,
                shortest_s=told.shortest,
                longest_s=told.longest,
                free_each_s=free,
                measured_each_s=each,
            )
        )
    return found


def predicted(communication: Communication, free_s: float, bits_per_s: float, delay_s: float = 0.0) -> Step:
    """A step that takes `free_s` where the network takes no time: with what processes do for a collective themselves.

    gloo's all-reduce of two processes sends what a ring sends, in as many messages; its reduce-scatter is an all-reduce
    and sends twice as much as is said here. Between steps a token bucket fills up, and as much passes at once.
    """
    told = step(free_s, communication.collectives, communication.overlap or 0.0, payload_link(bits_per_s, delay_s))
    if delay_s:  # netem's rate has no bucket
        return told
    at_once = min(communication.collectives_per_step, 1.0) * BUCKET_BYTES / (bits_per_s / 8)
    return replace(told, communication_s=max(told.communication_s - at_once, 0.0))


def _of(planned: list[Any], measured: list[tuple[int, float, int]], condition: Any) -> list[tuple[int, float, int]]:
    """The blocks of one condition; the first of all is left out."""
    known = list(zip(measured, planned, strict=True))[1:]
    return [block for block, has in known if tuple(has) == tuple(condition)]
