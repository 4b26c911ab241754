"""Communication between the processes of a run, and what parallel training brought."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

import pandas as pd

from ablab.analysis.pairing import counting, variants
from ablab.report.context import ReportContext
from ablab.report.formatting import MISSING, count, memory, metric_text, milliseconds, plural, share
from ablab.report.rows import mean_sd
from ablab.results.collect import Runs
from ablab.results.communication import Communication
from ablab.results.record import Record

_FLOAT32 = 4  # bytes
_STRATEGY = "strategy"  # the axis


def parallel_table(context: ReportContext, task: str) -> pd.DataFrame:
    """A row per variant on one task, as text: means over the runs that ended well. Empty if each was of one process.

    Args:
        task: of the suite of all tasks there is no such table: what is sent in a step of another model is no mean.
    """
    ok = _ok(context.runs, task) if task in context.tasks else {}
    if not any(_spread(records) for records in ok.values()):
        return pd.DataFrame()
    return pd.DataFrame([_row(variant, records, ok) for variant, records in ok.items()])


def parallel_notes(context: ReportContext, task: str) -> list[str]:
    """Say what efficiency is measured against, a sentence for each variant, with the threads on both sides."""
    ok = _ok(context.runs, task)
    notes = []
    for variant, records in ok.items():
        alone = _alone(records, ok)
        if alone is None:
            continue
        line = f"Efficiency of {variant}: against {alone}"
        processes, ours, theirs = _spread(records)[0].processes, _threads(records), _threads(ok[alone])
        if ours is not None and theirs is not None:
            line += (
                f", {processes} processes of {plural(ours, 'thread')} each against one of {plural(theirs, 'thread')}"
            )
            line += "" if processes * ours == theirs else ": not the same number of threads in all"
        notes.append(f"{line}.")
    return notes


def _ok(runs: Runs, task: str) -> dict[str, list[Record]]:
    """The runs of each variant that ended well, one of each seed; no variant without any."""
    found = {variant: counting(runs, task, variant) for variant in variants(runs)}
    return {variant: records for variant, records in found.items() if records}


def _spread(records: list[Record]) -> list[Communication]:
    return [record.communication for record in records if record.communication is not None]


def _row(variant: str, records: list[Record], ok: dict[str, list[Record]]) -> dict[str, str]:
    spread = _spread(records)
    alone = _alone(records, ok)

    def mean(of: Callable[[Communication], float | None]) -> float | None:
        known = [value for each in spread if (value := of(each)) is not None]
        return fmean(known) if known else None

    overlap = mean(lambda each: each.overlap)
    ratio = _of_gradient(records)
    return {
        "variant": variant,
        "processes": _processes(records),
        "payload/step": memory(mean(lambda each: each.payload_bytes_per_step)),
        "sent/step": memory(mean(lambda each: each.sent_bytes_per_step)),
        "of float32 gradient": MISSING if ratio is None else f"{ratio:.3g}",
        "collectives/step": count(mean(lambda each: each.collectives_per_step)),
        "communication/step": milliseconds(mean(lambda each: each.communication_s_per_step)),
        "overlap": MISSING if overlap is None else share(overlap),
        "waiting": _waiting(mean),
        "tokens/s": count(mean_sd([record.cost.tokens_per_second or math.nan for record in records])[0]),
        "efficiency": MISSING if alone is None else metric_text(*mean_sd(_efficiencies(records, ok[alone]))),
        "largest peak memory": memory(
            mean(lambda each: max((one.peak_memory_bytes for one in each.each), default=None))
        ),
    }


def _processes(records: list[Record]) -> str:
    kinds = dict.fromkeys(
        "1" if record.communication is None else f"{record.communication.processes} ({record.communication.backend})"
        for record in records
    )
    return ", ".join(kinds)


def _waiting(mean: Callable[[Callable[[Communication], float | None]], float | None]) -> str:
    """The share of a step in which the thread that trains had nothing to do or no core, mean over processes."""

    def of(each: Communication) -> float | None:
        known = [
            1 - one.computing_s_per_step / one.step_s
            for one in each.each
            if one.step_s and one.computing_s_per_step is not None
        ]
        return fmean(known) if known else None

    value = mean(of)
    return MISSING if value is None else share(max(value, 0.0))


def _of_gradient(records: list[Record]) -> float | None:
    """The payload over the size of a gradient in float32, which plain data parallel training hands in."""
    known = [
        record.communication.payload_bytes_per_step / (_FLOAT32 * record.cost.parameters)
        for record in records
        if record.communication is not None and record.cost.parameters
    ]
    return fmean(known) if known else None


def _alone(records: list[Record], ok: dict[str, list[Record]]) -> str | None:
    """The variant of one process that differs from this one in the strategy alone, at the same batch over all."""
    if not _spread(records):
        return None
    return next((name for name, others in ok.items() if not _spread(others) and _twins(records[0], others[0])), None)


def _twins(one: Record, other: Record) -> bool:
    return (
        {**one.axes, _STRATEGY: ""} == {**other.axes, _STRATEGY: ""}
        and one.cost.parameters == other.cost.parameters
        and _tokens_per_step(one) == _tokens_per_step(other) is not None
    )


def _tokens_per_step(record: Record) -> float | None:
    return record.cost.tokens / record.cost.steps if record.cost.steps else None


def _efficiencies(records: list[Record], alone: list[Record]) -> list[float]:
    """Tokens a second over those of the run of one process, seed by seed."""
    theirs = {record.seed: record.cost.tokens_per_second for record in alone}
    return [
        record.cost.tokens_per_second / of_one
        for record in records
        if record.cost.tokens_per_second and (of_one := theirs.get(record.seed))
    ]


def _threads(records: list[Record]) -> int | None:
    """The threads of each process; None if that is not known, or not the same in all runs."""
    found = {record.machine.get("threads") for record in records}
    threads = found.pop()
    return threads if not found and isinstance(threads, int) else None
