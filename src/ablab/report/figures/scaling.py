"""How costs and quality grow with the length of the sequences or the size of the model, on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ablab.analysis.scaling import Exponent
from ablab.report import formatting
from ablab.report.figures.canvas import Drawing, add_legend, drawing, legend_below, panels, some_of
from ablab.report.figures.style import MOST_VARIANTS, Style, styles
from ablab.report.study_sentences import exponent_sentence

_COLUMNS = 2
_FEW_DECADES = 0.3  # on more, the usual ticks would be too many to label
_NAMES = {
    "seq_len": "sequence length (tokens)",
    "seconds_per_step": "seconds per step",
    "flops_per_step": "FLOPs per step",
    "peak_memory_bytes": "peak memory (bytes)",
}


def power_laws(figures: Sequence[Sequence[Exponent]], of_variants: Mapping[str, Style]) -> Drawing | None:
    """One panel per figure, a line per series: points are means over runs, lines the fitted powers.

    Args:
        figures: the exponents of each figure, as `ablab.analysis.scaling.scaling` gives them.
        of_variants: their styles, where the series are variants.
    """
    known = [[one for one in found if one.alpha is not None] for found in figures]
    drawn = [found[:MOST_VARIANTS] for found in known if found]
    if not drawn:
        return None
    names = list(dict.fromkeys(one.series for found in drawn for one in found))
    chosen = of_variants if set(names) <= set(of_variants) else styles(names, "")
    with drawing():
        across = min(_COLUMNS, len(drawn))
        down, width = -(-len(drawn) // across), 3.7 * across + 0.6
        columns, room = legend_below(names, width)
        figure, panes = panels(width, 2.5 * down + 0.7 + room, across, down)
        for axes, found in zip(panes, drawn, strict=False):
            for one in found:
                _line(axes, one, chosen[one.series])
            _logarithmic(axes, found)
        for axes in panes[len(drawn) :]:
            axes.set_visible(False)
        add_legend(figure, panes, columns)
    words = " ".join(exponent_sentence(one) for found in drawn for one in found)
    most = max(map(len, known))
    left_out = some_of(min(most, MOST_VARIANTS), most, "variants", "the first of the plan")
    return Drawing(figure, f"Growth on logarithmic axes. {words} {left_out}".strip(), left_out)


def _line(axes: Axes, one: Exponent, style: Style) -> None:
    x = np.array(one.x)
    axes.plot(x, one.y, style.marker, color=style.colour, markersize=6, label=one.series)
    if one.alpha is not None and one.log_scale is not None:
        axes.plot(x, np.exp(one.log_scale + one.alpha * np.log(x)), "-", color=style.colour, linewidth=1.2)


def _logarithmic(axes: Axes, found: Sequence[Exponent]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({x for one in found for x in one.x})
    axes.set_xticks(ticks if len(ticks) <= 6 else [ticks[0], ticks[len(ticks) // 2], ticks[-1]])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _text(value)))
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(FuncFormatter(lambda value, _: _text(value)))
    decades = math.log10(max(max(one.y) for one in found) / min(min(one.y) for one in found))
    if decades > _FEW_DECADES:
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    if decades > 1:
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(_NAMES.get(found[0].x_name, found[0].x_name))
    axes.set_ylabel(_NAMES.get(found[0].y_name, found[0].y_name))


def _text(value: float) -> str:
    """Lengths in full, large counts with a prefix."""
    return f"{value:,.4g}" if 1e-3 <= value < 1e4 else formatting.count(value) if value >= 1e4 else f"{value:.0e}"
