"""Paired slopes: from the baseline's value to the variant's, one line per seed, one panel per variant."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from ablab.analysis.comparison import Comparison
from ablab.report.figures.canvas import Drawing, drawing, panels, shortened
from ablab.report.figures.style import TEXT, Style
from ablab.report.formatting import share

_COLUMNS, _MOST = 4, 8
_LETTERS = 22  # of a title
_PANEL, _HEIGHT = 1.9, 2.4  # inches


def slopes(items: Sequence[Comparison], styles: dict[str, Style]) -> Drawing | None:
    """None if no seed was run with both. Lines that run side by side are what pairing lives on.

    A solid line is a seed on which the variant did better, a dashed one a seed on which it did not.
    """
    shown = [item for item in items if item.differences][:_MOST]
    if not shown:
        return None
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    with drawing():
        figure, panes = panels(_PANEL * columns + 0.7, _HEIGHT * rows, columns, rows)
        for axes, item in zip(panes, shown, strict=False):
            _panel(axes, item, styles[item.variant])
        for axes in panes[len(shown) :]:
            axes.set_visible(False)
        for number, axes in enumerate(panes):
            axes.sharey(panes[0])  # slopes are to be compared
            axes.tick_params(labelleft=number % columns == 0)
            if number % columns == 0:
                axes.set_ylabel(shown[0].metric)
    words = "; ".join(f"{item.label}: {_caption(item)}" for item in shown)
    return Drawing(figure, f"{shown[0].metric} of each seed with the baseline and with the variant. {words}")


def _panel(axes: Axes, item: Comparison, style: Style) -> None:
    for base, difference in zip(item.baseline_values, item.differences, strict=True):
        won = difference < 0 if item.direction == "min" else difference > 0
        axes.plot([0, 1], [base, base + difference], "-" if won else "--", color=style.colour, linewidth=1.2)
        axes.plot([0], [base], "*", color=TEXT, markersize=6)
        axes.plot([1], [base + difference], style.marker, color=style.colour, markersize=5)
    axes.set_xticks([0, 1], ["baseline", "variant"])
    axes.set_xlim(-0.35, 1.35)
    axes.set_title(f"{shortened(item.label, _LETTERS)}\n{_caption(item)}", fontsize=9)
    axes.locator_params(axis="y", nbins=4)


def _caption(item: Comparison) -> str:
    r = "" if item.correlation is None else f", r = {share(item.correlation)}"
    return f"better {item.wins}/{len(item.differences)}{r}"
