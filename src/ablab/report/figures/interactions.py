"""Interactions as a heatmap: how much two options do together beyond the sum of what each does alone."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from ablab.report.figures.canvas import Drawing, drawing, panels
from ablab.report.figures.style import TEXT

# From orange over the page's own ground to blue, both of Okabe and Ito.
_COLOURS = LinearSegmentedColormap.from_list(
    "ablab", [(0, "#D55E00"), (0.5, "#D55E0000"), (0.5, "#0072B200"), (1, "#0072B2")]
)
_LINES = "#808080"
_MOST_OPTIONS = 16  # of a factor; cells of more could not be read
_SHADE = 0.5  # of the deepest colour, on which text and hatching can still be read


def interaction_heatmap(effects: pd.DataFrame, resolved: pd.DataFrame, metric: str) -> Drawing | None:
    """Rows are the options of one factor, columns those of another; hatched cells are not resolved.

    None if nothing is known, or where the factors have more options than a figure can show.

    Args:
        effects: differences of differences in the metric's unit, NaN where a run is missing.
        resolved: of the same shape, whether the verdict on the cell is resolved.
    """
    values = effects.to_numpy(dtype=float)
    finite = values[[[math.isfinite(value) for value in row] for row in values]] if values.size else values
    if not finite.size or max(values.shape) > _MOST_OPTIONS:
        return None
    most = float(abs(finite).max()) or 1.0
    scale = Normalize(-most / _SHADE, most / _SHADE)
    rows, columns = values.shape
    with drawing():
        figure, (axes,) = panels(1.9 + 1.25 * columns, 1.1 + 0.6 * rows)
        figure.cells = columns
        for row in range(rows):
            for column in range(columns):
                _cell(axes, row, column, values[row, column], bool(resolved.iloc[row, column]), scale)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xticks(range(columns), [str(name) for name in effects.columns])
        axes.set_yticks(range(rows), [str(name) for name in effects.index])
        axes.tick_params(length=0)
        axes.set_xlabel(str(effects.columns.name))
        axes.set_ylabel(str(effects.index.name))
        for side in axes.spines.values():
            side.set_visible(False)
    words = "; ".join(
        f"{effects.index[row]} with {effects.columns[column]} {_text(values[row, column])}"
        f"{'' if resolved.iloc[row, column] else ' (not resolved)'}"
        for row in range(rows)
        for column in range(columns)
        if math.isfinite(values[row, column])
    )
    return Drawing(figure, f"Interactions on {metric}, beyond the sum of both effects: {words}")


def _cell(axes: Axes, row: int, column: int, value: float, resolved: bool, scale: Normalize) -> None:
    place, size = (column - 0.48, row - 0.46), (0.96, 0.92)
    if math.isfinite(value):
        axes.add_patch(Rectangle(place, *size, facecolor=_COLOURS(scale(value)), linewidth=0))
    # Apart from the colour: SVG gives a hatch the transparency of what it lies on.
    hatch = "///" if math.isfinite(value) and not resolved else None
    axes.add_patch(Rectangle(place, *size, facecolor="none", edgecolor=_LINES, hatch=hatch, linewidth=0.6))
    axes.text(column, row, _text(value) if math.isfinite(value) else "not run", ha="center", va="center", color=TEXT)


def _text(value: float) -> str:
    return f"{value:+.3g}" if value else "0"
