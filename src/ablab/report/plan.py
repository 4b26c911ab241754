"""`ablab plan` on the terminal: the runs, their number and cost, what they could show, and what is wrong with them."""

from __future__ import annotations

import math
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablab.analysis.comparison import compare
from ablab.analysis.estimates import FEWEST_SEEDS, Estimate
from ablab.analysis.power import POWER, detectable
from ablab.errors import UserError
from ablab.report.units import duration, figure, memory
from ablab.results.collect import collect
from ablab.study.outlook import Outlook, Row

MISTAKE = 2  # exit status of a user's mistake, as everywhere in ablab
_SHOWN = 20  # lines of one kind; the rest is counted


def show_plan(outlook: Outlook, console: Console | None = None) -> int:
    """Print the outlook of a study; the exit status: that of a mistake if a run cannot work."""
    console = console or Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = 200  # a file has no edge
    if outlook.question:
        console.print(Text(outlook.question))
    for line in _some(outlook.notes):
        console.print(Text(line))
    if outlook.errors:
        for line in _some([f"ablab: error: {error} [in the run {run}]" for run, error in outlook.errors]):
            print(line, file=sys.stderr)
        console.print(f"{len(outlook.errors)} of {outlook.runs} runs cannot work; nothing has been started")
        return MISTAKE
    console.print(_table(outlook))
    for line in [*_numbers(outlook), *_power(outlook)]:
        console.print(Text(line))
    return 0


def _table(outlook: Outlook) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    several = len({row.first.task for row in outlook.rows}) > 1
    for name in (*(["task"] if several else []), "variant", "seeds", "steps", "done", "a run takes", "peak memory"):
        table.add_column(name, justify="left" if name in ("task", "variant", "seeds") else "right", overflow="fold")
    for row in outlook.rows:
        probe = row.probe
        took = (
            Text("–") if probe is None else Text(f"failed: {probe.error}" if probe.error else duration(probe.seconds))
        )
        cells = [Text(row.first.variant or "default"), Text(_ranges(row.seeds)), Text(f"{row.first.steps:,}")]
        cells += [Text(f"{row.done}/{len(row.seeds)}"), took, Text(memory(probe.memory_bytes if probe else None))]
        table.add_row(*([Text(row.first.task)] if several else []), *cells)
    return table


def _numbers(outlook: Outlook) -> list[str]:
    variants = len({row.first.variant for row in outlook.rows})
    tasks = len({row.first.task for row in outlook.rows})
    seeds = max(len(row.seeds) for row in outlook.rows)
    per_task = f" on {tasks} tasks" if tasks > 1 else ""
    lines = [f"{outlook.runs} runs: {variants} variants{per_task} x {seeds} seeds; {outlook.done} are done with"]
    if outlook.trials:
        lines.append(f"{outlook.trials} runs before them, to choose learning rates or to measure speeds")
    if any(row.probe for row in outlook.rows):
        side = f", {outlook.jobs} side by side" if outlook.jobs > 1 else ""
        known = [row.probe.memory_bytes for row in outlook.rows if row.probe and row.probe.memory_bytes]
        most = f"; {memory(outlook.jobs * max(known))} at most" if known else ""
        total = outlook.seconds
        about = "unknown, since a probe failed" if total is None else f"about {duration(total)}"
        lines.append(f"time left: {about}{side}{most} (from a few steps of each variant)")
    return lines


def _power(outlook: Outlook) -> list[str]:
    """The smallest effect that the seeds could show; in the metric's unit where earlier runs tell the spread."""
    lines = []
    for task in dict.fromkeys(row.first.task for row in outlook.rows):
        rows = [row for row in outlook.rows if row.first.task == task]
        seeds = max(len(row.seeds) for row in rows)
        named = f"{task}: " if len(rows) < len(outlook.rows) else ""
        if len(rows) == 1:
            lines.append(f"{named}one variant: there is nothing to compare")
        elif seeds < FEWEST_SEEDS:
            lines.append(f"{named}{seeds} seeds allow no verdict: take {FEWEST_SEEDS} at least, 5 as a rule")
        else:
            factor = _detectable(1.0, seeds)
            lines.append(
                f"{named}{seeds} seeds show an effect of {factor:.2f} standard deviations of the paired differences "
                f"{POWER:.0%} of the time, a smaller one more seldom{_in_units(outlook, rows, seeds)}"
            )
    return lines


def _in_units(outlook: Outlook, rows: list[Row], seeds: int) -> str:
    try:
        compared = compare(collect([outlook.folder]), None)
    except UserError:
        return ""
    spreads = [item.estimate.sd for item in compared.items if item.estimate and item.estimate.sd > 0]
    if not spreads:
        return ""
    least, most = (figure(_detectable(sd, seeds)) for sd in (min(spreads), max(spreads)))
    metric = " and ".join(sorted(set(compared.metrics.values())))
    return f"; by the runs there are, {least if least == most else f'{least} to {most}'} of {metric}"


def _detectable(sd: float, seeds: int) -> float:
    return detectable(Estimate(effect=0.0, standard_error=sd / math.sqrt(seeds), degrees=seeds - 1, pairs=seeds))


def _ranges(seeds: list[int]) -> str:
    """0,1,2,3,7 as "0-3,7"."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _some(lines: list[str]) -> list[str]:
    rest = len(lines) - _SHOWN
    return lines if rest <= 1 else [*lines[:_SHOWN], f"... and {rest} more"]
