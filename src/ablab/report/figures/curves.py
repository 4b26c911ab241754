"""Learning curves, and the paired difference between them: means over seeds with t-bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ablab.analysis.curves import Band, Series
from ablab.report.figures.canvas import Drawing, add_legend, drawing, legend_below, panels
from ablab.report.figures.style import MOST_VARIANTS, TEXT, Style

_COUNTED = ("step", "layer")  # horizontal axes without fractions
_ROUNDING = 1e-6
_MARKERS = 6  # on a line
_LINE, _WHOLE_LINE = 1.5, 2.2  # points; the baseline, which is whole, shows at the sides of what lies upon it
_BAND, _EDGE = 0.08, 0.4  # opacity of a band, and of its edges
_FEW = 4  # bands; of more each is fainter
_BLOWN = 10  # times what the others come to
_POINTS = 120  # more than the eye resolves would only make the file large


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes."""

    across: str  # label of the horizontal axis, with its unit
    upwards: str
    bands: Mapping[str, Band]  # by variant
    diverged: Sequence[tuple[str, int, Series]] = ()  # (variant, seed, its curve to the end)
    zero: bool = False  # whether a line marks nothing
    title: str = ""

    @property
    def empty(self) -> bool:
        return not self.bands and not self.diverged


def curves(found: Sequence[Panel], styles: Mapping[str, Style], columns: int = 2) -> Drawing | None:
    """The panels in rows of `columns`, one legend below; None if there is nothing to draw.

    Lines are means over seeds, bands t intervals at each point, dotted lines with a hollow end runs that diverged. The
    scale is that of the means and bands where a loss blows up, which goes on along its edge. What lies upon each other
    can be told apart: bands are faint with an edge, lines dashed, and markers take turns.
    """
    drawn = [panel for panel in found if not panel.empty]
    if not drawn:
        return None
    with drawing():
        across = min(columns, len(drawn))
        down, width = -(-len(drawn) // across), 3.7 * across + 0.6
        bands = [variant for panel in drawn for variant in panel.bands]
        diverged = [variant for panel in drawn for variant, _, _ in panel.diverged if variant in styles]
        names = list(dict.fromkeys([*bands, *diverged]))[:MOST_VARIANTS]
        legend, room = legend_below([styles[name].name or name for name in names], width)
        figure, panes = panels(width, 2.6 * down + 0.8 + room, across, down)
        for axes, panel in zip(panes, drawn, strict=False):
            _draw(axes, panel, styles, names)
        for axes in panes[len(drawn) :]:
            axes.set_visible(False)
        add_legend(figure, panes, legend)
    words = "; ".join(f"{panel.upwards} by {panel.across}: {_ends(panel, names)}" for panel in drawn)
    return Drawing(figure, f"Curves. {words}")


def _draw(axes: Axes, panel: Panel, styles: Mapping[str, Style], names: Sequence[str]) -> None:
    if panel.zero:
        axes.axhline(0, color=TEXT, linewidth=1)
    shown = {variant: band for variant, band in panel.bands.items() if variant in names}
    for rank, (variant, band) in enumerate(shown.items()):
        keep = _thinned(len(band.x))
        style = styles[variant]
        if band.low is not None and band.high is not None:
            low, high = band.low[keep], band.high[keep]
            few = min(1.0, _FEW / len(shown))
            fill, edge = (style.colour, few * _BAND), (style.colour, few * _EDGE)
            axes.fill_between(band.x[keep], low, high, facecolor=fill, edgecolor=edge, linewidth=0.7)
        axes.plot(
            band.x[keep], band.mean[keep], linestyle=style.line, color=style.colour, marker=style.marker,
            markevery=_turns(rank, len(shown), len(keep)), markersize=_size(rank, len(shown), len(keep)),
            linewidth=_LINE if style.dashes else _WHOLE_LINE, label=style.name or variant,
        )  # fmt: skip
    blown = [_blown(panel, y) for _, _, (_, y) in panel.diverged]
    for beyond in (False, True):  # the scale is that of all others
        bottom, top = axes.get_ylim() if beyond else (-np.inf, np.inf)
        for (variant, _, (x, y)), far in zip(panel.diverged, blown, strict=True):
            if variant in names and far is beyond:
                style, keep = styles[variant], _thinned(len(x))
                axes.plot(
                    x[keep], np.clip(y[keep], bottom, top), ":", color=style.colour, linewidth=1, clip_on=False,
                    marker=style.marker, markevery=[-1], markerfacecolor="none",
                    label=None if variant in panel.bands else style.name or variant,
                )  # fmt: skip
    if any(blown):
        axes.set_ylim(bottom, top)
    bottom, top = axes.get_ylim()
    largest = max(abs(bottom), abs(top))
    if top - bottom < _ROUNDING * largest:  # of single precision: no course to be shown
        axes.set_ylim(bottom - 0.05 * largest, top + 0.05 * largest)
    axes.set_xlabel(panel.across)
    axes.set_ylabel(panel.upwards)
    axes.set_title(panel.title, fontsize=9)
    axes.locator_params(axis="x", nbins=5, integer=panel.across in _COUNTED)


def _blown(panel: Panel, values: NDArray[np.float64]) -> bool:
    """Whether a curve leaves the means so far that they would be one line beside it."""
    means = np.abs([mean for band in panel.bands.values() for mean in band.mean if np.isfinite(mean)])
    return bool(np.abs(values).max(initial=0) > _BLOWN * means.max(initial=0) > 0)


def _thinned(points: int) -> NDArray[np.int_]:
    """Which of so many points are drawn, the first and the last among them."""
    return np.unique(np.linspace(0, points - 1, min(_POINTS, points)).astype(int))


def _turns(rank: int, variants: int, points: int) -> list[int]:
    """The points at which the line of that rank has its markers: each at others, where there are enough of them."""
    return list(range(rank % points, points, max(points // _MARKERS, min(variants, points))))


def _size(rank: int, variants: int, points: int) -> float:
    """Of markers, in points: where they cannot take turns, those above are smaller."""
    return 5.0 if variants <= points else max(4.0, 8.0 - 1.5 * rank)


def _ends(panel: Panel, names: Sequence[str]) -> str:
    ends = [f"{name} ends at {band.mean[-1]:.4g}" for name, band in panel.bands.items() if name in names]
    beyond = " beyond the scale"
    diverged = [f"{name} diverged{beyond if _blown(panel, y) else ''}" for name, _, (_, y) in panel.diverged]
    return ", ".join([*ends, *dict.fromkeys(diverged)])
