"""What the seeds could have shown: the effect that each comparison would have seen, beside the one that it saw."""

from __future__ import annotations

from collections.abc import Sequence

from ablab.analysis.comparison import Comparison
from ablab.analysis.power import POWER, detectable
from ablab.analysis.verdicts import RESOLVED
from ablab.report.figures.canvas import Drawing, drawing, only_rows, panels, row_height
from ablab.report.figures.style import MOST_VARIANTS, TEXT, Style
from ablab.report.formatting import decimals_for, number


def detectable_effects(items: Sequence[Comparison], styles: dict[str, Style]) -> Drawing | None:
    """One row per comparison with an interval: a bar over the effects that it would have missed more often than in one
    of five studies, and a marker at the size of the effect that it found. None if there is no such comparison."""
    found = [(item, detectable(item.estimate, item.level)) for item in items if item.estimate and item.interval]
    shown = [(item, limit) for item, limit in found if limit > 0][:MOST_VARIANTS]
    if not shown:
        return None
    metric = shown[0][0].metric
    labels = [item.label for item, _ in shown]
    with drawing():
        figure, (axes,) = panels(7.2, 1.1 + row_height(labels, 0.42) * len(shown))
        for row, (item, limit) in enumerate(shown):
            style = styles[item.variant]
            axes.barh(row, limit, height=0.5, color=style.colour, alpha=0.25, linewidth=0)
            axes.plot([limit, limit], [row - 0.25, row + 0.25], color=style.colour, linewidth=2)
            fill = style.colour if item.verdict in RESOLVED else "none"
            axes.plot([abs(item.effect or 0.0)], [row], style.marker, color=style.colour, markerfacecolor=fill)
        if (margin := shown[0][0].margin) is not None:
            axes.axvline(margin, color=TEXT, linestyle=":", linewidth=1)
            axes.annotate("margin", (margin, -0.5), xytext=(3, -9), textcoords="offset points", fontsize=8)
        only_rows(axes, labels)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"size of an effect on {metric}", loc="right")
    words = "; ".join(f"{item.label}: {_words(item, limit)}" for item, limit in shown)
    return Drawing(figure, f"Effects on {metric} that would have been seen with {POWER:.0%} probability. {words}")


def _words(item: Comparison, limit: float) -> str:
    digits = decimals_for(limit)
    return f"{number(limit, digits)} detectable, {number(abs(item.effect or 0.0), digits)} found"
