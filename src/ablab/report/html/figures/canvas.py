"""What all figures share: one look, a fixed colour and marker per variant, and SVG that fits into an HTML page.

The colours are those of Okabe and Ito (2008), "Color Universal Design", without the yellow that vanishes on white; the
marker shapes carry the same information without colour. Lines and text that belong to no variant are drawn in the
page's own text colour, so that they follow its light and dark themes.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TEXT = "#010203"  # stands for the page's text colour
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # not as many as the colours, so that the pairs repeat late

# Of a legend, in inches: a letter and a line of its text on average, its marker with the gaps; lines with room anyway.
_CHARACTER, _LINE, _HANDLE, _FEW_LINES = 0.078, 0.19, 0.55, 4

_RC: dict[Any, Any] = {  # Matplotlib types the names as literals
    "svg.hashsalt": "ablab",  # ids from content, not from chance
    "svg.fonttype": "none",  # text stays text: small, readable aloud, in the page's font
    "text.parse_math": False,  # a "$" in a variant's name is a dollar
    "font.size": 10,
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Look:
    """How a variant is drawn, in every figure alike."""

    colour: str
    marker: str


def looks(variants: Sequence[str], baseline: str) -> dict[str, Look]:
    """The look of each variant, by its place in the plan. The baseline has the colour of the text."""
    others = [variant for variant in variants if variant != baseline]
    found = {
        variant: Look(_COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)])
        for place, variant in enumerate(others)
    }
    found[baseline] = Look(TEXT, "*")
    return found


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib with the house style. Names in any script are allowed: the browser has the glyphs, not Matplotlib."""
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def panels(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches with a row of axes. Call within `drawing()`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)
    return figure, [axes[0, column] for column in range(columns)]


def legend_below(labels: Sequence[str], width: float) -> tuple[int, float]:
    """(columns, inches of height beside what every figure has room for) of a legend below panels of `width` inches.

    Two columns, or one where the names are too long for two.
    """
    widest = max(map(len, labels), default=0) * _CHARACTER + _HANDLE
    columns = 2 if 2 * widest <= width else 1
    return columns, _LINE * max(0, -(-len(labels) // columns) - _FEW_LINES)


def to_svg(figure: Figure, name: str, title: str) -> Markup:
    """The figure as an `<svg>` element for an HTML page. Call within `drawing()`.

    Args:
        name: unique in the page; every id in the figure starts with it.
        title: what the figure shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = svg.replace(TEXT, "currentColor")
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", opening)
    width = figure.get_figwidth()
    label = html.escape(title, quote=True)
    return Markup(
        f'{opening} role="img" aria-labelledby="{name}-title" style="width:{width:g}in">'
        f'<title id="{name}-title">{label}</title>{rest}'
    )
