"""How efficient a variant's way of training in parallel would be on other networks and more devices, by a model."""

from __future__ import annotations

from statistics import fmean

import pandas as pd

from ablab.report.context import ReportContext
from ablab.report.formatting import MISSING, milliseconds, share
from ablab.report.rows import records_of
from ablab.results.record import Record
from ablab.results.step_time import Link, on_devices, step

# Links as there are many: Ethernet of a rack, of a data centre, and between accelerators.
LINKS = {
    "1 Gbit/s, 50 µs": Link(1e9 / 8, 50e-6),
    "10 Gbit/s, 10 µs": Link(1e10 / 8, 10e-6),
    "100 Gbit/s, 5 µs": Link(1e11 / 8, 5e-6),
}
DEVICES = (8, 64, 1024)

NOTE = (
    "A model, not a measurement: the share of a step that is computation if each device computes as a process did, and "
    "sends what it sent by rings over such a link. More devices take as many more samples (weak scaling). The first "
    "number hides communication behind computation as far as it was measured to overlap; in brackets: nothing hidden, "
    "all that can be. A dash where processes share out the model, whose growth is not known."
)
_WHOLE = "Computation of {} is the whole time of a step: what it took without waiting for communication is not known."


def extrapolation_table(context: ReportContext, task: str) -> pd.DataFrame:
    """A row per variant of several processes and link, as text: means over the runs that ended well."""
    rows = []
    for variant, records in _spread(context, task).items():
        known = [computing for record in records if (computing := compute_s(record)) is not None]
        for name, link in LINKS.items() if known else ():
            row = {"variant": variant, "computation/step": milliseconds(fmean(known)), "link": name}
            row |= {"as run": _efficiency(records, None, link)}
            rows.append(row | {f"{devices:,} devices": _efficiency(records, devices, link) for devices in DEVICES})
    return pd.DataFrame(rows)


def extrapolation_notes(context: ReportContext, task: str) -> list[str]:
    """Say what the table is, and for which variants it knows less."""
    whole = [
        variant
        for variant, records in _spread(context, task).items()
        if any(_computing(record) is None for record in records)
    ]
    return [NOTE, *([_WHOLE.format(", ".join(whole))] if whole else [])]


def compute_s(record: Record) -> float | None:
    """Seconds of a step that the process computes for which the others wait longest; of a step where not known."""
    computing = _computing(record)
    if computing is not None:
        return computing
    cost = record.cost
    return cost.train_time_s / cost.steps if cost.train_time_s and cost.steps else None


def _computing(record: Record) -> float | None:
    each = record.communication.each if record.communication is not None else []
    known = [one.computing_s_per_step for one in each if one.computing_s_per_step]
    return max(known) if known else None


def _spread(context: ReportContext, task: str) -> dict[str, list[Record]]:
    if task not in context.tasks:
        return {}
    found = {
        variant: [
            record
            for record in records_of(context.runs, task, variant)
            if record.status == "ok" and record.communication is not None
        ]
        for variant in context.variants
    }
    return {variant: records for variant, records in found.items() if records}


def _efficiency(records: list[Record], devices: int | None, link: Link) -> str:
    """ ".92 (.88 to .97)"; without the first where the overlap is not known."""
    steps, measured = [], True
    for record in records:
        communication, computing = record.communication, compute_s(record)
        if communication is None or computing is None:
            continue
        collectives = on_devices(communication, devices or communication.processes)
        if collectives is None:
            return MISSING
        measured &= communication.overlap is not None
        steps.append(step(computing, collectives, communication.overlap or 0.0, link))
    least, likely, most = (
        share(fmean(each.compute_s / seconds for each, seconds in zip(steps, times, strict=True)))
        for times in (
            [each.longest for each in steps],
            [each.seconds for each in steps],
            [each.shortest for each in steps],
        )
    )
    return f"{likely} ({least} to {most})" if measured else f"{least} to {most}"
