"""The parts of sections: headings, text, tables, heatmaps, and figures set into the page.

A figure becomes an `<svg>` element that belongs to the page: its text colour, its font, ids of its own.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from markupsafe import Markup

from ablab.report.context import ReportContext
from ablab.report.figures.canvas import Drawing, ShownFigure, drawing
from ablab.report.figures.narrow import narrow
from ablab.report.figures.style import TEXT
from ablab.report.formatting import MISSING

LEVELS = 10  # shades beside none; the style sheet has one class for each
_FRACTION = (0.0, 1.0)  # the scale of accuracies and shares


@dataclass(frozen=True)
class Scale:
    """The meaning of the colours, in all heatmaps that are to be compared: none for `low`, the deepest for `high`."""

    low: float
    high: float

    def level(self, value: float) -> int:
        """The shade of `value`, 0 to `LEVELS`; 0 for what is not finite."""
        if not math.isfinite(value) or self.high <= self.low:
            return 0
        share = (value - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0) * LEVELS)

    def text(self, value: float) -> str:
        """`value` as a cell shows it: two decimals on a scale of fractions."""
        if not math.isfinite(value):
            return MISSING
        return f"{value:.2f}" if (self.low, self.high) == _FRACTION else f"{value:.3g}"


@dataclass(frozen=True)
class Heatmap:
    """A grid of numbers on one colour scale, as the template sets it: an HTML table.

    It is the picture and its own text at once: every cell holds its number, so that nothing rests on the colour, a
    screen reader reads it with its headings, and hundreds of cells weigh a few kilobytes.
    """

    caption: str
    corner: str  # what rows and columns are
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, int]]]]  # (heading, cells as (text, shade))


@dataclass(frozen=True)
class Block:
    """A part of a section; what it lacks is left out."""

    title: str = ""
    text: str = ""  # before the figure
    figure: Markup | None = None
    otherwise: str = ""  # where there is no figure
    table: pd.DataFrame | None = None
    wrapped: tuple[str, ...] = ()  # columns of the table that hold sentences
    grids: Sequence[Heatmap] = ()
    lines: Sequence[str] = ()
    sub: bool = False  # whether it belongs to the block before it
    whose: str = ""  # the task, in a section on several
    folded: Sequence[Block] = ()  # what its title opens, by a click


@dataclass(frozen=True)
class Section:
    """A heading of the report and what stands below it."""

    name: str  # its id in the page
    title: str
    intro: str = ""
    blocks: Sequence[Block] = ()
    template: str = ""  # of a section with a form of its own, in the place of blocks
    data: object = None  # that the template shows


_MOST_OPEN = 3  # tasks of a section that may be folded


def per_task(
    context: ReportContext, make: Callable[[str], Sequence[Block]], suite: bool = False, folding: bool = False
) -> list[Block]:
    """The blocks of every task, under its name where there are several.

    Args:
        suite: whether the suite of all tasks, where they make one, comes before them.
        folding: whether those of many tasks, or of many sizes, are folded away under their names.
    """
    blocks: list[Block] = []
    for task in [context.suite, *context.tasks] if suite and context.suite else context.tasks:
        made = list(make(task))
        if made and len(context.tasks) > 1:
            made = [replace(block, sub=bool(block.title), whose=task) for block in made]
            folded = folding and len(context.tasks) > _MOST_OPEN
            made = [Block(title=task, folded=made)] if folded else [Block(title=task), *made]
        blocks += made
    left_out = next((said for task in context.tasks if (said := context.left_out(task))), "")
    return [Block(text=left_out), *blocks] if blocks and left_out else blocks


def svg(context: ReportContext, shown: Drawing | None, section: str, task: str, number: int = 0) -> Markup | None:
    """The figure, with ids that no other figure of the page has."""
    place = context.tasks.index(task) + 1 if task in context.tasks else 0  # 0: the suite
    return to_svg(shown, f"{section}-{place}-{number}")


def to_svg(shown: Drawing | None, name: str) -> Markup | None:
    """The figure for an HTML page, for wide screens and once more for narrow ones; None if there is none.

    The style sheet shows one of the two.

    Args:
        name: unique in the page; every id in the figure starts with it.
    """
    if shown is None:
        return None
    label = html.escape(shown.alt, quote=True)
    broad = _svg(shown.figure, name, "broad", f'<title id="{name}-title">{label}</title>', name)
    with drawing():
        narrow(shown.figure)
    left_out = Markup('<p class="soft">{}</p>').format(shown.left_out) if shown.left_out else Markup("")
    return broad + _svg(shown.figure, f"{name}-n", "narrow", "", name) + left_out


def _svg(figure: ShownFigure, name: str, kind: str, title: str, named: str) -> Markup:
    """The figure as it is laid out now; ids begin with `name`, and the title of `named` says what it shows."""
    buffer = io.StringIO()
    with drawing():
        if engine := figure.get_layout_engine():  # else saving draws the whole figure once more for it
            engine.execute(figure)
            figure.set_layout_engine(None)  # "none" would leave one that does nothing, and is drawn for all the same
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = _said_once(_compact(re.sub(r"<[^>]+>", lambda tag: _of_page(tag[0], name), svg)), name)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", opening)
    width = f"{figure.get_figwidth():g}in"
    about = f'id="{name}-f" class="{kind}" role="img" aria-labelledby="{named}-title" style="width:{width}"'
    return Markup(f"{opening} {about}>{title}{rest}")


def _of_page(tag: str, name: str) -> str:
    """A tag with the page's text colour and ids of its own. Text between tags is a user's, and stays as it is."""
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    return re.sub(r'xlink:href="#', f'href="#{name}-', tag).replace(TEXT, "currentColor")


def _compact(svg: str) -> str:
    """Write the picture in half the bytes: no ids that nothing refers to, no lists of fonts, hundredths of points."""
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))

    def shorter(tag: re.Match[str]) -> str:
        text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", tag[0])
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
        text = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", text)
        text = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), text)
        text = re.sub(r' (?:d|x|y)="[^"]*"', lambda place: re.sub(r" ?([MLQCz]) ?", r"\1", _tenths(place[0])), text)
        return re.sub(r"\s+", " ", text)

    svg = re.sub(r">\s+<", "><", re.sub(r"<[^>]+>", shorter, svg))
    empty = re.compile(r"<(g|defs)></\1>")
    while empty.search(svg):
        svg = empty.sub("", svg)
    bare = re.compile(r"<g>((?:(?!</?g[ >]).)*)</g>", re.DOTALL)  # a group that says nothing, and holds no other
    while bare.search(svg):
        svg = bare.sub(r"\1", svg)
    return svg


def _tenths(numbers: str) -> str:
    return re.sub(r"-?\d+\.\d\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), numbers)


def _said_once(svg: str, name: str) -> str:
    """Write each style once, as a class, and short ids: a figure has hundreds of marks, and few kinds of them."""
    classes: dict[str, str] = {}
    ids = {known: f"{name}-i{place}" for place, known in enumerate(re.findall(r' id="([^"]+)"', svg))}

    def shorter(tag: re.Match[str]) -> str:
        text = re.sub(r'( id="|url\(#|href="#)([^")]+)', lambda found: found[1] + ids.get(found[2], found[2]), tag[0])
        return re.sub(r'style="([^"]*)"', classed, text)

    def classed(style: re.Match[str]) -> str:
        return f'class="{classes.setdefault(style[1], f"k{len(classes)}")}"'

    svg = re.sub(r"<[^>]+>", shorter, svg)
    tight = {style: re.sub(r"(?<=[:;]) ", "", style) for style in classes}
    rules = "".join(f"#{name}-f .{title}{{{tight[style]}}}" for style, title in classes.items())
    return svg.replace("</style>", f"{rules}</style>", 1)


def scale_of(frames: Iterable[pd.DataFrame]) -> Scale:
    """0 to 1 if all values lie there, else from the lowest to the highest."""
    values = np.concatenate([np.empty(0), *(frame.to_numpy(dtype=float).ravel() for frame in frames)])
    values = values[np.isfinite(values)]
    if not len(values) or (values.min() >= 0 and values.max() <= 1):
        return Scale(*_FRACTION)
    return Scale(float(values.min()), float(values.max()))


def heatmap(caption: str, frame: pd.DataFrame, scale: Scale) -> Heatmap:
    """The numbers of `frame`; the names of its index and its columns say what they are."""
    rows = [
        (str(name), [(scale.text(value), scale.level(value)) for value in values])
        for name, values in zip(frame.index, frame.to_numpy(dtype=float).tolist(), strict=True)
    ]
    return Heatmap(caption, f"{frame.index.name} ↓ {frame.columns.name} →", list(map(str, frame.columns)), rows)
