"""A figure laid out anew for a narrow screen: panels below each other, names above their rows, no text too small.

It is the same figure, whose lines and points need not be made again: the report writes it once as it was drawn, and
once more as it is here, and its style sheet shows whichever fits the screen.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.gridspec import GridSpec
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from ablab.report.figures.canvas import LINE, ShownFigure, add_legend, folded

NARROW = 3.4  # inches, 326 pixels: what a screen of 360 has room for beside its margins
_SMALLEST = 8.5  # points: 11 pixels at least
_ROW = 0.27  # inches of half a row at least: its name is in the upper half, its marks around the middle
_OWN = 0.75  # inches of a list of rows that are for its axis and the label of it
_LETTERS, _UPWARDS = 40, 26  # in a line of a label along and beside a panel
_NAME = 44  # letters in a line of the name of a row
_CELLS, _LETTER = 2.3, 0.075  # inches of all columns of a grid, and of a letter
_TICKS = 4  # at most, and their gaps, along an axis


def narrow(figure: ShownFigure) -> None:
    """Change the figure's layout to be `NARROW` inches wide."""
    panes = [axes for axes in figure.axes if axes.get_visible()]
    before = _grid(panes[0])
    height = figure.get_figheight() - figure.legend_height
    across = min(len(panes), max(1, round(NARROW * before.ncols / figure.get_figwidth())))
    down = -(-len(panes) // across)
    each = height / before.nrows
    if figure.lists:
        each = _OWN + sum(_listed(axes, labels) for axes, labels in figure.lists.items()) / len(figure.lists)
    if figure.cells:
        each = _turned(panes[0], figure.cells, each)
    grid = GridSpec(down, across, figure=figure)
    upwards = [panes[place - place % before.ncols].get_ylabel() for place in range(len(panes))]  # said once in a row
    for place, axes in enumerate(panes):
        axes.set_subplotspec(grid[place // across, place % across])
        first = place % across == 0
        axes.set_ylabel(axes.get_ylabel() or upwards[place] if first else "")
        _fit(axes, figure, across)
        if before.ncols > 1 and _shares(panes):
            axes.tick_params(labelleft=first)
    _readable(figure)
    figure.set_size_inches(NARROW, each * down)
    if figure.legends:
        figure.legends[0].remove()
        add_legend(figure, panes, 1)
        figure.set_size_inches(NARROW, each * down + figure.legend_height)
    figure.set_layout_engine("constrained")


def _grid(axes: Axes) -> GridSpec:
    spec = axes.get_subplotspec()
    assert spec is not None  # `panels` makes axes in a grid alone
    grid = spec.get_gridspec()
    assert isinstance(grid, GridSpec)
    return grid


def _shares(panes: Sequence[Axes]) -> bool:
    """Whether the panels have one vertical axis in common, which the first of each row shows."""
    return all(panes[0].get_shared_y_axes().joined(panes[0], axes) for axes in panes)


def _listed(axes: Axes, labels: Sequence[str]) -> float:
    """Set the names of rows above what they name; inches of all the rows."""
    names = [folded(label, _NAME) for label in labels]
    lines = max(name.count("\n") + 1 for name in names)
    row = 2 * max(_ROW, LINE * lines + 0.06)
    axes.set_yticks([])
    for place, name in enumerate(names):
        axes.text(
            0.0, place - 0.47, name, transform=axes.get_yaxis_transform(), ha="left", va="top", fontsize=9
        )  # fmt: skip
    return row * len(labels)


def _fit(axes: Axes, figure: ShownFigure, across: int) -> None:
    """Fold the panel's labels, and leave out ticks that would meet."""
    axes.set_xlabel(textwrap.fill(axes.get_xlabel(), _LETTERS // across))
    axes.set_ylabel(textwrap.fill(axes.get_ylabel(), _UPWARDS))
    if axes in figure.lists or not isinstance(axes.xaxis.get_major_locator(), MaxNLocator):
        return
    axes.locator_params(axis="x", nbins=_TICKS)


def _turned(axes: Axes, columns: int, height: float) -> float:
    """Write upwards what would meet side by side in a grid, its numbers and the names of its columns.

    Returns:
        The inches that the grid then needs, of the `height` that it had.
    """
    room = _CELLS / columns / _LETTER
    names = max(len(label.get_text()) for label in axes.get_xticklabels())
    numbers = max((len(text.get_text()) for text in axes.texts), default=0)
    if names > room:
        axes.tick_params(axis="x", rotation=90)
        height += names * _LETTER
    if numbers > room:
        for text in axes.texts:
            text.set_rotation(90)
        rows = len(axes.get_yticklabels())
        height = max(height, _OWN + names * _LETTER + rows * (numbers + 1) * _LETTER)
    return height


def _readable(figure: ShownFigure) -> None:
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_fontsize(max(float(text.get_fontsize()), _SMALLEST))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            size = max((float(label.get_fontsize()) for label in axis.get_ticklabels()), default=_SMALLEST)
            axis.set_tick_params(labelsize=max(size, _SMALLEST))
