"""What `ablab plan` says of a ladder: its sizes, what each takes, the range of compute, and the rules in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from ablab.config.ladder import ENOUGH
from ablab.report.formatting import MISSING, count, duration
from ablab.study.preview import Size

_COLUMNS = ("size", "parameters", "tokens", "steps", "FLOPs", "rate", "runs", "time")


def ladder_table(sizes: Sequence[Size]) -> Table:
    """A row for each size, as the baseline has it; parameters without embeddings, the rate in units of the first."""
    several = len({size.task for size in sizes}) > 1
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (*(["task"] if several else []), *_COLUMNS):
        table.add_column(name, justify="left" if name in ("task", "size") else "right", overflow="fold")
    for size in sizes:
        report = size.report
        cells = [*([size.task] if several else []), report.rung, count(report.parameters), count(report.tokens)]
        cells += [f"{size.steps:,}", count(report.flops), f"x {report.rate_factor:.3g}", str(size.runs)]
        table.add_row(*map(Text, [*cells, MISSING if size.seconds is None else duration(size.seconds)]))
    return table


def ladder_lines(sizes: Sequence[Size]) -> list[str]:
    """The rules and the range of compute, and that more sizes would say more."""
    labels = list(dict.fromkeys(size.report.rung for size in sizes))
    lines = [f"ladder of {len(labels)} sizes{_range(sizes)}; rate: {_rate(sizes)}"]
    if len(labels) < ENOUGH:
        lines.append(f"{len(labels)} sizes say little of how an effect goes on: take {ENOUGH} or more")
    return lines


def _range(sizes: Sequence[Size]) -> str:
    """How far the compute of the baseline reaches, on the task where it reaches least."""
    ratios = []
    for task in {size.task for size in sizes}:
        flops = [size.report.flops for size in sizes if size.task == task]
        if None in flops or not flops[0]:
            return ""
        ratios.append((flops[-1] or 0.0) / flops[0])
    return f", {min(ratios):.3g} times the compute from the smallest to the largest"


def _rate(sizes: Sequence[Size]) -> str:
    rules = {size.report.rate_rule for size in sizes} - {"constant"}
    return f"that of the first size times {rules.pop()}" if rules else "the same at every size"
