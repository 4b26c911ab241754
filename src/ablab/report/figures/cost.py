"""Quality against cost: one point per variant, one panel per cost, and who is on its front, perhaps, or off it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ablab.analysis.pareto import Membership
from ablab.report import formatting
from ablab.report.figures.canvas import Drawing, add_legend, drawing, legend_below, panels
from ablab.report.figures.style import MOST_VARIANTS, TEXT, Style
from ablab.report.rows import IN_USE, Row
from ablab.results.record import Direction


@dataclass(frozen=True)
class CostAxis:
    """A cost as a figure and a table show it."""

    title: str
    text: Callable[[float | None], str]
    better: Direction = "min"


COST_AXES = {
    "flops_total": CostAxis("training FLOPs", formatting.count),
    "wall_time_s": CostAxis("wall time", formatting.duration),
    "tokens_per_second": CostAxis("tokens per second", formatting.count, "max"),
    "peak_memory_bytes": CostAxis("peak memory", formatting.memory),
    "cache_bytes_8k": CostAxis("cache of 8,192 tokens", formatting.memory),
    "decode_flops_8k": CostAxis("FLOPs of token 8,192", formatting.count),
}
_COLUMNS = 2
_FAINT = 0.35  # opacity of what is off the front
Members = Mapping[str, Mapping[str, str]]  # cost -> variant -> what can be said of it and the front


def quality_and_cost(
    rows: Sequence[Row], members: Members, unequal: Mapping[str, str], styles: Mapping[str, Style]
) -> Drawing | None:
    """One task's variants; None if no run has both a metric and a cost.

    A filled marker is on the Pareto front, a hollow one perhaps, a faint one off it or not ranked; a line joins those
    that are on it. A ring is around variants whose budget differs from the baseline's.

    Args:
        rows: as `variant_rows` gives them.
        members: cost -> variant -> "on", "perhaps", "off" or "".
        unequal: the variants that did not get what the baseline got, and by what.
    """
    known = [row for row in rows if math.isfinite(row["mean"])][:MOST_VARIANTS]
    shown = {cost: [row for row in known if math.isfinite(_number(row.get(cost)))] for cost in COST_AXES}
    shown = {cost: found for cost, found in shown.items() if found and not (cost in IN_USE and _one(found, cost))}
    if not shown:
        return None
    metric = rows[0]["metric"]
    with drawing():
        width, down = 3.6 * min(_COLUMNS, len(shown)) + 0.4, math.ceil(len(shown) / _COLUMNS)
        columns, room = legend_below([styles[row["variant"]].name or row["variant"] for row in known], width)
        figure, panes = panels(width, 2.5 * down + 0.9 + room, min(_COLUMNS, len(shown)), down)
        words = [
            _panel(axes, cost, rows, members.get(cost, {}), unequal, styles)
            for axes, (cost, rows) in zip(panes, shown.items(), strict=False)
        ]
        for axes in panes[len(shown) :]:
            axes.set_visible(False)
        for axes in panes[::_COLUMNS]:
            axes.set_ylabel(f"{metric} ± sd")
        add_legend(figure, panes, columns)
    marks = "; ".join(f"{variant} at another budget ({by})" for variant, by in unequal.items())
    return Drawing(figure, f"{metric} against cost. {' '.join(words)}{f' {marks}.' if marks else ''}")


def _one(rows: Sequence[Row], cost: str) -> bool:
    """Whether all cost the same, as variants do that differ in training alone."""
    return len({_number(row[cost]) for row in rows}) == 1


def _panel(
    axes: Axes,
    cost: str,
    rows: Sequence[Row],
    members: Mapping[str, str],
    unequal: Mapping[str, str],
    styles: Mapping[str, Style],
) -> str:
    """Draws one cost, and says who is on its front, and who perhaps."""
    shown = COST_AXES[cost]
    by_cost = sorted(rows, key=lambda row: float(row[cost]))
    on, perhaps = (
        [row for row in by_cost if members.get(row["variant"]) == kind] for kind in (Membership.ON, Membership.PERHAPS)
    )
    axes.plot([row[cost] for row in on], [row["mean"] for row in on], ":", color=TEXT, linewidth=1.2)
    for row in rows:
        style, faint = styles[row["variant"]], row not in on and row not in perhaps
        axes.errorbar(
            row[cost], row["mean"], row["sd"] if math.isfinite(row["sd"]) else 0,
            color=style.colour, marker=style.marker, markersize=8, linestyle="none", label=style.name or row["variant"],
            markerfacecolor=style.colour if row in on or faint else "none", alpha=_FAINT if faint else 1.0,
        )  # fmt: skip
        if row["variant"] in unequal:
            axes.plot([row[cost]], [row["mean"]], "o", color=TEXT, markerfacecolor="none", markersize=14)
    axes.set_xlabel(f"{shown.title} (more is better)" if shown.better == "max" else shown.title)
    axes.margins(0.2)
    axes.xaxis.set_major_locator(_Bytes(nbins=3) if shown.text is formatting.memory else MaxNLocator(nbins=3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown.text(value)))
    return f"{shown.title}: {_named(on)} on the front{f', perhaps {_named(perhaps)}' if perhaps else ''}."


class _Bytes(MaxNLocator):
    """Ticks at round numbers of MiB, or of whichever unit they are told in."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        most = max(abs(vmin), abs(vmax), 1.0)
        unit = 1024.0 ** int(math.log(most, 1024))
        return [unit * tick for tick in super().tick_values(vmin / unit, vmax / unit)]


def _named(rows: Sequence[Row]) -> str:
    return ", ".join(row["variant"] for row in rows) or "none"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
