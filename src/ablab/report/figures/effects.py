"""Effects: with their intervals, seed by seed, and beside the smallest ones that the seeds could have shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from ablab.analysis.comparison import Comparison
from ablab.analysis.power import POWER, detectable
from ablab.analysis.verdicts import RESOLVED
from ablab.report.figures.canvas import Drawing, drawing, only_rows, panels, row_height, shortened, some_of
from ablab.report.figures.style import MOST_VARIANTS, TEXT, Style
from ablab.report.formatting import decimals_for, number, share
from ablab.report.sentences import verdict_line


def forest(items: Sequence[Comparison], styles: dict[str, Style]) -> Drawing | None:
    """The effects of one task; None if no comparison has one. A filled marker is a resolved verdict.

    Of more than `MOST_VARIANTS` the largest effects are drawn, in the order given.
    """
    shown = _largest([item for item in items if item.effect is not None], MOST_VARIANTS)
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
            if item.shown_interval is not None:
                axes.plot(item.shown_interval, [row, row], color=style.colour, linewidth=2.2, solid_capstyle="butt")
            fill = style.colour if item.verdict in RESOLVED else "none"
            axes.plot([item.effect or 0.0], [row], style.marker, color=style.colour, markerfacecolor=fill, markersize=8)
        only_rows(axes, labels)
        better = "lower" if first.direction == "min" else "higher"
        axes.set_xlabel(f"effect on {first.metric}, variant minus baseline ({better} is better)", loc="right")
    words = "; ".join(map(verdict_line, shown))
    bases = {item.baseline for item in items}
    base = first.baseline if len(bases) == 1 else "the one before each"
    return Drawing(figure, f"Effects on {first.metric} against {base}: {words}")


def _largest(items: list[Comparison], most: int) -> list[Comparison]:
    """So many of them, in the order given."""
    ranked = sorted(items, key=lambda item: -abs(item.effect or 0.0))[:most]
    return [item for item in items if item in ranked] if len(items) > most else items


_COLUMNS, _MOST_PANELS = 4, 8
_LETTERS = 22  # of a title
_PANEL, _HEIGHT = 1.9, 2.4  # inches


def slopes(items: Sequence[Comparison], styles: dict[str, Style]) -> Drawing | None:
    """None if no seed was run with both. Lines that run side by side are what pairing lives on.

    A solid line is a seed on which the variant did better, a dashed one a seed on which it did not. Of many the largest
    effects are drawn, in the order given.
    """
    found = [item for item in items if item.differences]
    shown = _largest(found, _MOST_PANELS)
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
    text = f"{shown[0].metric} of each seed with the baseline and with the variant. {words}"
    left_out = some_of(len(shown), len(found), "comparisons", "those with the largest effects")
    return Drawing(figure, f"{text}. {left_out}" if left_out else text, left_out)


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


def detectable_effects(items: Sequence[Comparison], styles: dict[str, Style]) -> Drawing | None:
    """One row per comparison with an interval: a bar over the effects that it would have missed more often than in one
    of five studies, and a marker at the size of the effect that it found. None if there is no such comparison."""
    found = [(item, detectable(item.estimate, item.share_level)) for item in items if item.estimate and item.interval]
    drawn = _largest([item for item, limit in found if limit > 0], MOST_VARIANTS)
    shown = [(item, limit) for item, limit in found if item in drawn]
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
