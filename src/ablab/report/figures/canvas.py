"""Shared by all figures: one style, panels with room for a legend below them, and a text beside the picture.

Lines and text that belong to no variant are drawn in `TEXT`, for which the report sets the page's own text colour, so
that they follow its light and dark themes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.report.figures.style import TEXT

DOTS_PER_INCH = 144  # of pictures; in the report figures have no pixels

# Of a legend, in inches: a letter and a line of its text on average, its marker with the gaps; lines with room anyway.
_CHARACTER, LINE, _HANDLE, _FEW_LINES = 0.082, 0.19, 0.55, 4
_LEGEND = 0.15  # around all of its lines

_ROW_LETTERS, _ROW_LINE = 34, 0.17  # of the labels of rows: the most in a line, and inches of height of one
_MOST_LINES = 4  # of a label
_TICKS = 4  # along an axis whose labels may be long

_RC: dict[Any, Any] = {  # Matplotlib types the names as literals
    "svg.hashsalt": "ablab",  # ids from content, not from chance
    "svg.fonttype": "none",  # text stays text: small, readable aloud, in the page's font
    "figure.autolayout": False,  # a figure without a layout engine has none
    "figure.constrained_layout.use": False,
    "text.usetex": False,  # a matplotlibrc in the working folder would start TeX
    "text.parse_math": False,  # a "$" in a variant's name is a dollar
    "font.size": 10,
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "hatch.color": "#808080",
    "hatch.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
}


class ShownFigure(Figure):
    """A figure that a notebook shows as it is, whether or not pyplot has been set up there.

    Attributes:
        lists: the axes that are lists of rows, with the names of these.
        cells: how many columns of written numbers it has side by side, 0 of none.
        legend_height: of its legend, in inches; 0 without one.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.lists: dict[Axes, Sequence[str]] = {}
        self.cells = 0
        self.legend_height = 0.0

    def _repr_png_(self) -> bytes:
        return self.png()

    def png(self) -> bytes:
        """On white: the colour of its text is made for the page that the report sets it into."""
        buffer = io.BytesIO()
        with drawing():
            self.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="white")
        return buffer.getvalue()


@dataclass(frozen=True)
class Drawing:
    """A figure and what it shows."""

    figure: ShownFigure
    alt: str  # in words, numbers included: for those who cannot see it
    left_out: str = ""  # a sentence on what it has no room for, which `alt` has, too


def some_of(shown: int, found: int, what: str, which: str) -> str:
    """ "Drawn are 8 of 15 comparisons: those with the largest effects."; "" where all are."""
    return "" if shown == found else f"Drawn are {shown} of {found:,} {what}: {which}."


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib with the house style. Names in any script are allowed: the browser has the glyphs, not Matplotlib."""
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def panels(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[ShownFigure, list[Axes]]:
    """A figure of so many inches with its axes, row by row. Call within `drawing()`."""
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [axes[row, column] for row in range(rows) for column in range(columns)]


def legend_below(labels: Sequence[str], width: float) -> tuple[int, float]:
    """(columns, inches of height beside what every figure has room for) of a legend below panels of `width` inches.

    Two columns, or one where the names are too long for two.
    """
    widest = max(map(len, labels), default=0) * _CHARACTER + _HANDLE
    columns = 2 if 2 * widest <= width else 1
    tallest = max((folded(label, _letters(width, columns)).count("\n") + 1 for label in labels), default=1)
    return columns, LINE * max(0, tallest * -(-len(labels) // columns) - _FEW_LINES)


def add_legend(figure: ShownFigure, panes: Sequence[Axes], columns: int) -> list[str]:
    """One legend below all panels, every label once; the labels. Without any there is none."""
    handles = {label: line for axes in panes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        names = [folded(label, _letters(figure.get_figwidth(), columns)) for label in handles]
        figure.legend_height = LINE * sum(name.count("\n") + 1 for name in names) / columns + _LEGEND
        figure.legend(list(handles.values()), names, loc="outside lower center", ncols=columns, fontsize=9)
    return list(handles)


def row_height(labels: Sequence[str], usual: float) -> float:
    """Inches of each row of `only_rows`: the usual ones, or more where a label takes several lines."""
    return max([usual, *(0.1 + _ROW_LINE * (1 + folded(label).count("\n")) for label in labels)])


def only_rows(axes: Axes, labels: Sequence[str], reach: float = 0.5) -> None:
    """The axes as a list of `labels` from top to bottom, without a line or ticks at its side.

    Long labels are folded, and the horizontal axis has few ticks: both leave room for what is drawn.
    """
    if isinstance(axes.figure, ShownFigure):
        axes.figure.lists[axes] = labels
    axes.locator_params(axis="x", nbins=_TICKS)
    axes.set_yticks(range(len(labels)), [folded(label) for label in labels])
    axes.set_ylim(len(labels) - 1 + reach, -reach)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)


def folded(label: str, letters: int = _ROW_LETTERS) -> str:
    """The label in lines of at most so many letters, broken between overrides; what is too long keeps its ends."""
    lines: list[str] = []
    parts = BETWEEN_OVERRIDES.split(label)
    for part in [*(f"{part}," for part in parts[:-1]), parts[-1]]:
        if lines and len(lines[-1]) + len(part) <= letters:
            lines[-1] += part
        else:
            lines.append(part)
    lines = [*lines[: _MOST_LINES - 1], "".join(lines[_MOST_LINES - 1 :])]
    return "\n".join(shortened(line, letters) for line in lines if line)


def shortened(text: str, letters: int) -> str:
    """The text, or its ends: they are what sets long ones apart."""
    return text if len(text) <= letters else f"{text[: letters // 2 - 1]}…{text[-(letters // 2) :]}"


def _letters(width: float, columns: int) -> int:
    """That a legend of so many inches has room for in each column."""
    return int((width / columns - _HANDLE) / _CHARACTER)
