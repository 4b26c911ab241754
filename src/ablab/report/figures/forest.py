"""Effects with their intervals, one row per variant, and a mark for every seed."""

from __future__ import annotations

from collections.abc import Sequence

from ablab.analysis.comparison import Comparison
from ablab.analysis.verdicts import RESOLVED
from ablab.report.figures.canvas import Drawing, drawing, only_rows, panels, row_height
from ablab.report.figures.style import MOST_VARIANTS, TEXT, Style
from ablab.report.sentences import verdict_line


def forest(items: Sequence[Comparison], styles: dict[str, Style]) -> Drawing | None:
    """The effects of one task; None if no comparison has one. A filled marker is a resolved verdict.

    Of more than `MOST_VARIANTS` the largest effects are drawn, in the order given.
    """
    shown = _largest([item for item in items if item.effect is not None])
    if not shown:
        return None
    first = shown[0]
    labels = [item.label for item in shown]
    with drawing():
        figure, (axes,) = panels(7.2, 1.1 + row_height(labels, 0.48) * len(shown))
        axes.axvline(0, color=TEXT, linewidth=1)
        if first.margin is not None:
            axes.axvspan(-first.margin, first.margin, color="#808080", alpha=0.18, linewidth=0)
        for row, item in enumerate(shown):
            style = styles[item.variant]
            axes.plot(item.differences, [row + 0.22] * len(item.differences), "|", color=style.colour, markersize=7)
            if item.interval is not None:
                axes.plot(item.interval, [row, row], color=style.colour, linewidth=2.2, solid_capstyle="butt")
            fill = style.colour if item.verdict in RESOLVED else "none"
            axes.plot([item.effect or 0.0], [row], style.marker, color=style.colour, markerfacecolor=fill, markersize=8)
        only_rows(axes, labels)
        better = "lower" if first.direction == "min" else "higher"
        axes.set_xlabel(f"effect on {first.metric}, variant minus baseline ({better} is better)", loc="right")
    words = "; ".join(map(verdict_line, shown))
    return Drawing(figure, f"Effects on {first.metric} against {first.baseline}: {words}")


def _largest(items: list[Comparison]) -> list[Comparison]:
    ranked = sorted(items, key=lambda item: -abs(item.effect or 0.0))[:MOST_VARIANTS]
    return [item for item in items if item in ranked] if len(items) > MOST_VARIANTS else items
