"""`ablab plan` on the terminal: the runs, their number and cost, what they could show, and what is wrong with them."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.config.placebo import KEY as PLACEBO
from ablab.errors import printable
from ablab.report.conclude import MISTAKE, RUNS_NOT_OK
from ablab.report.formatting import duration, memory, plural
from ablab.report.plan_ladder import ladder_lines, ladder_table
from ablab.report.plan_looks import look_lines
from ablab.report.plan_power import Family, is_placebo, power_lines
from ablab.study.preview import Preview, Row

_SHOWN = 20  # lines of one kind; the rest is counted


def show_plan(preview: Preview, console: Console | None = None) -> int:
    """Print the preview of a study; the exit status: 2 if a run cannot work, 1 if a probe did not end well."""
    console = console or Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = 200  # a file has no edge
    if preview.question:
        console.print(Text(preview.question))
    for line in _some(preview.notes):
        console.print(Text(line))
    if preview.errors:
        for line in _some(_errors(preview.errors)):
            print(line, file=sys.stderr)
        console.print(f"{len(preview.errors)} of {preview.runs} runs cannot work; nothing has been started")
        return MISTAKE
    if preview.ladder:
        console.print(ladder_table(preview.ladder))
        console.print()
    console.print(_table(preview))
    ladder = ladder_lines(preview.ladder) if preview.ladder else []
    for line in [*_numbers(preview), *ladder, *_looks(preview), *power_lines(preview)]:
        console.print(Text(line))
    failed = _failed_probes(preview.rows)
    for line in _some(failed):
        print(line, file=sys.stderr)
    return RUNS_NOT_OK if failed else 0


def _failed_probes(rows: list[Row]) -> list[str]:
    """A line for each variant whose probe did not end well: its runs would not either."""
    names = _names(rows)
    tasks = len({row.first.task for row in rows}) > 1
    return [
        printable(f"ablab: the probe of {names[key]}{f' on {key[0]}' if tasks else ''} failed: {row.probe.error}")
        for row in rows
        if row.probe and row.probe.error and (key := (row.first.task, row.first.variant))
    ]


def _errors(errors: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each error, with the first of the runs that have it."""
    of_error: dict[str, list[str]] = defaultdict(list)
    for run, error in errors:
        of_error[error].append(run)
    more = {error: f" and {len(runs) - 1} more" if len(runs) > 1 else "" for error, runs in of_error.items()}
    return [f"ablab: error: {error} [in the run {runs[0]}{more[error]}]" for error, runs in of_error.items()]


def _table(preview: Preview) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    several = len({row.first.task for row in preview.rows}) > 1
    for name in (*(["task"] if several else []), "variant", "seeds", "steps", "done", "a run takes", "peak memory"):
        table.add_column(name, justify="left" if name in ("task", "variant", "seeds") else "right", overflow="fold")
    names = _names(preview.rows)
    for row in preview.rows:
        probe = row.probe
        took = (
            Text("–") if probe is None else Text(f"failed: {probe.error}" if probe.error else duration(probe.seconds))
        )
        cells = [Text(names[row.first.task, row.first.variant]), Text(_ranges(row.seeds)), Text(f"{row.first.steps:,}")]
        cells += [Text(f"{row.done}/{len(row.seeds)}"), took, Text(memory(probe.memory_bytes if probe else None))]
        table.add_row(*([Text(row.first.task)] if several else []), *cells)
    return table


def _numbers(preview: Preview) -> list[str]:
    names = _names(preview.rows)
    placebos = len({names[row.first.task, row.first.variant] for row in preview.rows if is_placebo(row)})
    variants = len(set(names.values())) - placebos
    tasks = len({row.first.task for row in preview.rows})
    seeds = max(len(row.seeds) for row in preview.rows)
    per_task = f" on {tasks} tasks" if tasks > 1 else ""
    sizes = len({size.report.rung for size in preview.ladder}) or 1
    beside = f" and {plural(placebos // sizes, 'placebo')}" if placebos else ""
    at = f" at {plural(sizes, 'size')}" if preview.ladder else ""
    size = f"{plural(variants // sizes, 'variant')}{beside}{per_task}{at} x {plural(seeds, 'seed')}"
    lines = [f"{plural(preview.runs, 'run')}: {size}; {preview.done} are done with"]
    if preview.trials.count:
        more = f"; up to {preview.trials.more:,} more where a best lies at an end of its grid"
        lines.append(
            f"{preview.trials.count:,} runs before them, to tune or to measure speeds"
            f"{f'; {preview.trials.done:,} are done with' if preview.trials.done else ''}"
            f"{more if preview.trials.more else ''}"
        )
    if any(row.probe for row in preview.rows):
        side = f", {preview.jobs} side by side" if preview.jobs > 1 else ""
        known = [row.probe.memory_bytes for row in preview.rows if row.probe and row.probe.memory_bytes]
        most = f"; {memory(preview.jobs * max(known))} at most" if known else ""
        total = preview.seconds
        about = "unknown, since a probe failed" if total is None else f"about {duration(total)}"
        about += " at most" if preview.seeds and total is not None else ""
        lines.append(f"time left: {about}{side}{most} (from a few steps of each variant)")
    return lines


def _looks(preview: Preview) -> list[str]:
    """What a study that makes its seeds in blocks decides when, and what that will cost."""
    family = Family.of(preview)
    on_tasks = sum(family.on_tasks.values())  # which hold half of the level together where there is a suite
    return look_lines(preview, preview.seeds, on_tasks * (2 if family.on_suite else 1)) if preview.seeds else []


def _names(rows: list[Row]) -> dict[tuple[str, str], str]:
    """By task and variant, the variant without what all of its task have in common, on every task."""
    given = {(row.first.task, row.first.variant): _settings(row.first.variant) for row in rows}
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (task, _), settings in given.items():
        for key, value in settings.items():
            values[key, task].add(value)
    varied = {key for (key, _), found in values.items() if len(found) > 1}
    return {
        of: _name({k: v for k, v in settings.items() if k in varied or not v or k == PLACEBO})
        for of, settings in given.items()
    }


def _name(settings: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" if value else key for key, value in settings.items()) or "default"


def _settings(variant: str) -> dict[str, str]:
    """A name, where the variant has one, is a key without a value."""
    parts = (part.partition("=") for part in BETWEEN_OVERRIDES.split(variant))
    return {key: value for key, _, value in parts}


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
