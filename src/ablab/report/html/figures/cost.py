"""Quality beside cost: one point per variant, one panel per cost that was measured."""

from __future__ import annotations

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter

from ablab.report import units
from ablab.report.html.figures.canvas import Look, drawing, legend_below, panels, to_svg
from ablab.report.tables import Row

_COSTS = {
    "flops_total": ("training FLOPs", units.count),
    "wall_time_s": ("wall time", units.duration),
    "peak_memory_bytes": ("peak memory", units.memory),
}


def quality_and_cost(rows: list[Row], looks: dict[str, Look], name: str) -> Markup | None:
    """`rows` are those of one task from `variant_rows`; None if no run has both a metric and a cost."""
    shown = {
        cost: [row for row in rows if row[cost] == row[cost] and row["mean"] == row["mean"]]  # not NaN
        for cost in _COSTS
    }
    shown = {cost: found for cost, found in shown.items() if found}
    if not shown:
        return None
    with drawing():
        width = 2.6 * len(shown) + 0.8
        columns, room = legend_below([row["variant"] for row in rows], width)
        figure, panes = panels(width, 3.2 + room, columns=len(shown))
        for axes, (cost, found) in zip(panes, shown.items(), strict=True):
            title, text = _COSTS[cost]
            for row in found:
                look = looks[row["variant"]]
                sd = row["sd"] if row["sd"] == row["sd"] else 0
                axes.errorbar(
                    row[cost], row["mean"], sd, color=look.colour, marker=look.marker, markersize=8, linestyle="none",
                    label=row["variant"],
                )  # fmt: skip
            axes.set_xlabel(title)
            axes.margins(0.2)
            axes.locator_params(axis="x", nbins=3)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _, text=text: text(value)))
        panes[0].set_ylabel(f"{rows[0]['metric']} ± sd")
        handles, labels = panes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)
        return to_svg(figure, name, f"{rows[0]['metric']} beside {', '.join(_COSTS[cost][0] for cost in shown)}")
