"""A metric over the length of sequences that finished runs were evaluated on."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from ablab.analysis.elsewhere import Elsewhere, Point
from ablab.report.figures.canvas import Drawing, add_legend, drawing, legend_below, panels
from ablab.report.figures.style import TEXT, Style

_WIDTH = 7.2


def over_lengths(found: Elsewhere, styles: Mapping[str, Style], shown: Collection[str]) -> Drawing | None:
    """A line for each of the variants `shown` with a bar for each interval, on a logarithmic axis.

    A dotted line is where it was trained. None where the evaluations do not differ in the length alone, or are of none
    of these.
    """
    names = [name for name in found.points if name in shown]
    if not found.lengths or not names:
        return None
    with drawing():
        columns, room = legend_below(names, _WIDTH)
        figure, (axes,) = panels(_WIDTH, 3.6 + room)
        for length in found.trained:
            axes.axvline(length, color=TEXT, linewidth=1, linestyle=":")
        for name in names:
            _line(axes, name, list(zip(found.lengths, found.points[name], strict=True)), styles[name])
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({*found.lengths, *found.trained}))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("tokens of a sequence in the evaluation")
        axes.set_ylabel(found.metric)
        add_legend(figure, [axes], columns)
    ends = "; ".join(f"{name} {_course(found, name)}" for name in names)
    return Drawing(figure, f"{found.metric} over the length of sequences: {ends}")


def _line(axes: Axes, name: str, points: list[tuple[int, Point | None]], style: Style) -> None:
    known = [(length, point) for length, point in points if point is not None]
    x, y = [length for length, _ in known], [point.mean for _, point in known]
    axes.plot(x, y, "-", marker=style.marker, color=style.colour, markersize=6, label=style.name or name)
    for length, point in known:
        if point.interval is not None:
            axes.plot([length, length], point.interval, color=style.colour, linewidth=2, alpha=0.5)


def _course(found: Elsewhere, name: str) -> str:
    known = [(n, point) for n, point in zip(found.lengths, found.points[name], strict=True) if point is not None]
    return ", ".join(f"{point.mean:.4g} at {length:,}" for length, point in known)
