"""Tables and lines for the terminal."""

from __future__ import annotations

import io
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from ablab.bench.attention.implementation import Pass
from ablab.bench.attention.results import Cell, Results
from ablab.bench.attention.scaling import FIT_FROM, UNITS, ahead, baseline_of, crossover, exponent

MISSING = "–"
TITLES: dict[Pass, str] = {"forward": "forward", "forward_backward": "forward and backward"}
PIPE_WIDTH = 120  # where there is no terminal to ask
_WIDE = 10_000


@dataclass(frozen=True)
class Table:
    """Text, ready to be shown; the first column is a name."""

    title: str
    header: list[str]
    rows: list[list[str]]


def tables(results: Results, matmul_peak: float) -> list[Table]:
    """All tables.

    Args:
        matmul_peak: of the machine, in FLOP/s.
    """
    found = []
    for pass_ in results.passes:
        found += [_times(results, pass_), _memory(results, pass_), _scaling(results, pass_, matmul_peak)]
    for pass_ in results.passes:
        found.append(_ratios(results, pass_))
    return [table for table in found if table.rows]


def lines(results: Results) -> list[str]:
    """Where options do not pay, and what was skipped."""
    return [*_where_it_does_not_pay(results), *_skipped(results)]


def render(shown: Sequence[Table]) -> str:
    """As text. A number that is cut short is a wrong number: a table wider than the terminal keeps its width."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns if terminal else PIPE_WIDTH
    text = io.StringIO()
    for table in shown:
        rich = RichTable(box=None, pad_edge=False)
        for position, name in enumerate(table.header):
            rich.add_column(escape(name), justify="right" if position else "left", no_wrap=True)
        for row in table.rows:
            rich.add_row(*map(escape, row))
        probe = Console(file=text, width=_WIDE, force_terminal=terminal, highlight=False)
        needed = Measurement.get(probe, probe.options, rich).minimum
        console = Console(file=text, width=max(width, needed), force_terminal=terminal, highlight=False)
        console.print(f"[bold]{escape(table.title)}[/bold]", soft_wrap=True)
        console.print(rich)
        text.write("\n")
    return text.getvalue()


def _times(results: Results, pass_: Pass) -> Table:
    rows = []
    for each in results.implementations:
        cells = results.of(each.implementation, pass_)
        rows.append([_name(each), *(_time(cells.get(length)) for length in results.lengths)])
    title = f"{TITLES[pass_]}: milliseconds, median ± half the spread"
    return Table(title, ["", *_lengths(results)], rows)


def _time(cell: Cell | None) -> str:
    if cell is None or cell.times is None:
        return MISSING
    spread = (cell.times.max_s - cell.times.min_s) / 2 / cell.times.median_s
    return f"{three_digits(cell.times.median_s * 1e3)} ±{spread:.0%}"


def _memory(results: Results, pass_: Pass) -> Table:
    rows = []
    for each in results.implementations:
        found = results.bytes(each.implementation, pass_)
        cells = (three_digits(found[n] / 2**20) if n in found else MISSING for n in results.lengths)
        rows.append([_name(each), *cells])
    title = f"{TITLES[pass_]}: peak memory of a call, MiB, results included"
    return Table(title, ["", *_lengths(results)], rows)


def _scaling(results: Results, pass_: Pass, matmul_peak: float) -> Table:
    rows = []
    for each in results.implementations:
        seconds = results.seconds(each.implementation, pass_)
        if not seconds:
            continue
        power = exponent(seconds)
        row = [_name(each), MISSING if power is None else f"T^{power:.2f}", _from(each, pass_, results)]
        rows.append([*row, *_share(results.of(each.implementation, pass_), matmul_peak)])
    header = ["", f"growth from {FIT_FROM:,}", "faster than SDPA", "share of matmul peak", "at"]
    return Table(f"{TITLES[pass_]}: scaling", header, rows)


def _from(each: Cell, pass_: Pass, results: Results) -> str:
    baseline = baseline_of(each)
    full = results.seconds(baseline, pass_)
    found = crossover(results.seconds(each.implementation, pass_), full) if each.implementation != baseline else None
    if found is None:
        return MISSING
    if found.kind == "never":
        return f"not up to {found.length:,.0f}"
    return f"from {found.length:,.0f}" if found.kind == "at" else f"already at {found.length:,.0f}"


def _share(cells: dict[int, Cell], matmul_peak: float) -> tuple[str, str]:
    """The share of the peak, of what the definition needs per second, at the longest length."""
    timed = {n: cell for n, cell in cells.items() if cell.times is not None and cell.flops is not None}
    if not timed or not matmul_peak:
        return MISSING, MISSING
    last = timed[max(timed)]
    assert last.times is not None
    assert last.flops is not None
    return f"{last.flops / last.times.median_s / matmul_peak:.0%}", f"{last.length:,}"


def _ratios(results: Results, pass_: Pass) -> Table:
    rows = []
    for each in results.implementations:
        if not each.ours:
            continue
        full = results.seconds(baseline_of(each), pass_)
        ours = results.seconds(each.implementation, pass_)
        against = {n: full[n] / ours[n] for n in ours if n in full}
        if against:
            rows.append(_ratio_row(each, f"{baseline_of(each)} / ours, time", against, "", results))
        for unit in UNITS if each.family != "full" else ():
            best = ahead(each, pass_, results, unit)
            if best:
                ratios = {n: found.ratio for n, found in best.items()}
                rows.append(_ratio_row(each, f"best peer / ours, {unit}", ratios, best[max(best)].peer, results))
    header = ["", "", *_lengths(results), "best peer at the longest"]
    return Table(f"{TITLES[pass_]}: how many times ours", header, rows)


def _ratio_row(each: Cell, what: str, ratios: dict[int, float], peer: str, results: Results) -> list[str]:
    cells = (three_digits(ratios[n]) if n in ratios else MISSING for n in results.lengths)
    return [each.implementation, what, *cells, peer]


def _where_it_does_not_pay(results: Results) -> list[str]:
    found = []
    for each in results.implementations:
        if not each.ours or each.family == "full":
            continue
        parts = []
        for pass_ in results.passes:
            full = results.seconds(baseline_of(each), pass_)
            crossing = crossover(results.seconds(each.implementation, pass_), full)
            if crossing is None:
                continue
            if crossing.kind == "below":
                parts.append(f"{TITLES[pass_]}: pays at all lengths, {crossing.length:,.0f} tokens included")
            elif crossing.kind == "never":
                parts.append(f"{TITLES[pass_]}: does NOT pay up to {crossing.length:,.0f} tokens")
            else:
                parts.append(f"{TITLES[pass_]}: does NOT pay below {crossing.length:,.0f} tokens")
        if parts:
            found.append(f"{each.implementation}, against {baseline_of(each)}: {'; '.join(parts)}.")
    return found


def _skipped(results: Results) -> list[str]:
    found: dict[tuple[str, str, str], list[int]] = {}
    for cell in results.cells:
        if cell.skipped:
            key = (cell.implementation, cell.skipped, TITLES[cell.pass_])
            found.setdefault(key, []).append(cell.length)
    return [
        f"skipped: {name}, {pass_}, at {', '.join(f'{n:,}' for n in sorted(lengths))}: {reason}"
        for (name, reason, pass_), lengths in found.items()
    ]


def _name(each: Cell) -> str:
    return f"ours: {each.implementation}" if each.ours else each.implementation


def _lengths(results: Results) -> list[str]:
    return [f"{n:,}" for n in results.lengths]


def three_digits(value: float) -> str:
    """0.0123, 1.23, 12.3, 123, 1,234."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
