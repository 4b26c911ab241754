"""Effects with their intervals, one row per variant, and a mark for every seed."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ablab.analysis.comparison import Comparison
from ablab.analysis.verdicts import RESOLVED
from ablab.report.html.figures.canvas import TEXT, Look, drawing, panels, to_svg


def forest(items: Sequence[Comparison], looks: dict[str, Look], name: str) -> Markup | None:
    """The effects of one task; None if no comparison has one. A filled marker is a resolved verdict."""
    shown = [item for item in items if item.effect is not None]
    if not shown:
        return None
    first = shown[0]
    with drawing():
        figure, (axes,) = panels(7.2, 1.1 + 0.48 * len(shown))
        axes.axvline(0, color=TEXT, linewidth=1)
        if first.margin is not None:
            axes.axvspan(-first.margin, first.margin, color="#808080", alpha=0.18, linewidth=0)
        for row, item in enumerate(shown):
            look = looks[item.variant]
            axes.plot(item.differences, [row + 0.22] * len(item.differences), "|", color=look.colour, markersize=7)
            if item.interval is not None:
                axes.plot(item.interval, [row, row], color=look.colour, linewidth=2.2, solid_capstyle="butt")
            fill = look.colour if item.verdict in RESOLVED else "none"
            axes.plot([item.effect or 0.0], [row], look.marker, color=look.colour, markerfacecolor=fill, markersize=8)
        axes.set_yticks(range(len(shown)), [item.label for item in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        better = "lower" if first.direction == "min" else "higher"
        axes.set_xlabel(f"effect on {first.metric}, variant minus baseline ({better} is better)", loc="right")
        axes.tick_params(left=False)
        axes.spines["left"].set_visible(False)
        title = f"Effects on {first.metric} against {first.baseline}: " + "; ".join(item.line for item in shown)
        return to_svg(figure, name, title)
