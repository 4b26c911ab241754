"""A ladder as it is drawn: losses over compute with their laws, and each effect with what is foreseen of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ablab.analysis.over_scale.curve import Curve
from ablab.analysis.over_scale.forecast import COVERAGE
from ablab.analysis.over_scale.study import LadderFindings, OverScale
from ablab.analysis.over_scale.verdicts import ScaleVerdict
from ablab.report.figures.canvas import Drawing, add_legend, drawing, legend_below, panels, shortened, some_of
from ablab.report.figures.style import MOST_VARIANTS, TEXT, Style
from ablab.report.formatting import count
from ablab.report.over_scale import TIMES, law_sentence, scale_line

_MOST_LAWS = 7  # variants beside the baseline that a panel of losses tells apart
_COLUMNS = 3
_GRID = 60  # points of a law
_LETTERS = 26  # of a panel's title


def laws(found: LadderFindings, of_variants: Mapping[str, Style]) -> Drawing | None:
    """Left the losses with their laws, right what variants are worth in compute; None without values.

    Of many variants those with a verdict, then those with the largest gains or losses.
    """
    ladder = found.ladder
    chosen = _chosen(found.items, _MOST_LAWS)
    names = [ladder.baseline, *(item.variant for item in chosen)]
    labels = ["baseline", *(item.climb.label for item in chosen)]
    if not any(key[0] == ladder.baseline for key in ladder.values):
        return None
    with drawing():
        columns, room = legend_below(labels, 8.4)
        figure, (left, right) = panels(8.4, 3.9 + room, 2)
        for name, label, law in zip(names, labels, [found.law, *(item.law for item in chosen)], strict=True):
            _losses(left, found, name, label, law, of_variants[name])
        left.set_ylabel(ladder.metric)
        drawn = [item for item in chosen if item.gains]
        for item in drawn:
            _gains(right, item, of_variants[item.variant])
        right.axhline(1, color=TEXT, linewidth=1, linestyle=":")
        right.set_yscale("log")
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        right.yaxis.set_minor_formatter(NullFormatter())
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.set_ylabel("compute-equivalent gain")
        right.set_visible(bool(drawn))
        for axes in (left, right):
            _compute(axes)
        add_legend(figure, [left], columns)
    left_out = some_of(len(chosen), len(found.items), "variants", _TELLING)
    return Drawing(figure, f"{ladder.metric} over compute. {law_sentence(found)} {left_out}".strip(), left_out)


_TELLING = "those with a verdict, then those with the largest effects"


def _chosen(items: Sequence[OverScale], most: int) -> list[OverScale]:
    """The most telling ones, in the order of the plan."""

    def telling(item: OverScale) -> tuple[bool, float]:
        return item.verdict is ScaleVerdict.UNKNOWN, -abs(item.forecast.now if item.forecast else 0.0)

    best = sorted(items, key=telling)[:most]
    return [item for item in items if item in best]


def _losses(axes: Axes, found: LadderFindings, name: str, label: str, law: Curve | None, style: Style) -> None:
    ladder = found.ladder
    points = [(p.flops, p.value) for p in ladder.points if p.variant == name and math.isfinite(p.flops * p.value)]
    whole = [(p.flops, p.value) for p in ladder.points if p.variant == name and not p.on_the_way]
    if len(points) > len(whole):
        axes.plot(*zip(*points, strict=True), style.marker, color=style.colour, markersize=3, alpha=0.25)
    if not points:
        return
    axes.plot(*zip(*whole, strict=True), style.marker, color=style.colour, markersize=4, alpha=0.6, label=label)
    if law is None:
        return
    start, end = ladder.rungs[0].flops, ladder.rungs[-1].flops
    for low, high, line in ((start, end, "-"), (end, TIMES * end, ":")):
        grid = np.geomspace(low, high, _GRID)
        values = law.loss(grid) if ladder.direction == "min" else (ladder.limit or 0.0) - law.loss(grid)
        axes.plot(grid, values, line, color=style.colour, linewidth=1.2)


def _gains(axes: Axes, item: OverScale, style: Style) -> None:
    assert item.gains is not None
    known = [(c, g.factor) for c, g in zip(item.climb.compute, item.gains.at, strict=True) if g is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "-", marker=style.marker, color=style.colour, markersize=5, linewidth=1.2)


def effects_ahead(found: LadderFindings, of_variants: Mapping[str, Style]) -> Drawing | None:
    """A panel per variant: its effects with intervals, what the smaller sizes foresaw of the largest, and what is
    foreseen up to ten times the compute; None where nothing is.
    """
    every = [item for item in found.items if item.climb.items]
    items = _chosen(every, MOST_VARIANTS)
    if not items:
        return None
    with drawing():
        across = min(_COLUMNS, len(items))
        down = -(-len(items) // across)
        figure, panes = panels(2.75 * across + 0.4, 1.75 * down + 0.5, across, down)
        for axes, item in zip(panes, items, strict=False):
            _panel(axes, item, of_variants[item.variant])
        for axes in panes[len(items) :]:
            axes.set_visible(False)
        for place in range(0, len(items), across):
            panes[place].set_ylabel(f"effect on {shortened(found.ladder.metric, 14)}", fontsize=8)
    words = " ".join(scale_line(item) for item in items)
    left_out = some_of(len(items), len(every), "variants", _TELLING)
    text = f"Effects over compute, up to {TIMES} times the largest. {words} {left_out}"
    return Drawing(figure, text.strip(), left_out)


def _panel(axes: Axes, item: OverScale, style: Style) -> None:
    axes.axhline(0, color=TEXT, linewidth=1, linestyle=":")
    for place, size in zip(item.climb.compute, item.climb.items, strict=True):
        if size.interval is not None:
            axes.plot([place, place], size.interval, color=style.colour, linewidth=2, alpha=0.5)
        if size.effect is not None:
            axes.plot([place], [size.effect], style.marker, color=style.colour, markersize=5)
    if ahead := item.ahead():
        flops, middle, bounds = zip(*ahead, strict=True)
        low, high = zip(*bounds, strict=True)
        axes.fill_between(flops, low, high, color=style.colour, alpha=0.2, linewidth=0)
        axes.plot(flops, middle, "--", color=style.colour, linewidth=1.2)
    if (test := item.held_out) is not None:
        place = item.climb.compute[-1] / 1.25  # beside what was measured
        axes.plot([place, place], test.interval, color=TEXT, linewidth=1)
        axes.plot([place], [test.foreseen], "_", color=TEXT, markersize=7)
    axes.set_title(f"{shortened(item.climb.label, _LETTERS)}: {item.verdict.value}", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.locator_params(axis="y", nbins=5)
    _compute(axes, label=False)


def _compute(axes: Axes, label: bool = True) -> None:
    """A logarithmic axis of FLOPs."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if label:
        axes.set_xlabel("FLOPs of the training")


KEY = (
    "Points are effects with the interval of each size by itself. The thin line beside the last is what the smaller "
    f"sizes alone foresaw of it, the band what is foreseen beyond: {COVERAGE:.0%} of measurements on as many seeds."
)
