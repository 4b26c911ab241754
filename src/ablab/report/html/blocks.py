"""The parts of sections: headings, text, tables, heatmaps, and figures set into the page.

A figure becomes an `<svg>` element that belongs to the page: its text colour, its font, ids of its own.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from markupsafe import Markup

from ablab.report.context import ReportContext
from ablab.report.figures.canvas import Drawing, drawing
from ablab.report.figures.style import TEXT
from ablab.report.html.heatmap import Heatmap


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


@dataclass(frozen=True)
class Section:
    """A heading of the report and what stands below it."""

    name: str  # its id in the page
    title: str
    intro: str = ""
    blocks: Sequence[Block] = ()
    template: str = ""  # of a section with a form of its own, in the place of blocks
    data: object = None  # that the template shows


def per_task(context: ReportContext, make: Callable[[str], Sequence[Block]], suite: bool = False) -> list[Block]:
    """The blocks of every task, under its name where there are several.

    Args:
        suite: whether the suite of all tasks, where they make one, comes before them.
    """
    blocks: list[Block] = []
    for task in [context.suite, *context.tasks] if suite and context.suite else context.tasks:
        made = list(make(task))
        if made and len(context.tasks) > 1:
            blocks.append(Block(title=task))
            made = [replace(block, sub=bool(block.title), whose=task) for block in made]
        blocks += made
    left_out = next((said for task in context.tasks if (said := context.left_out(task))), "")
    return [Block(text=left_out), *blocks] if blocks and left_out else blocks


def svg(context: ReportContext, shown: Drawing | None, section: str, task: str, number: int = 0) -> Markup | None:
    """The figure, with ids that no other figure of the page has."""
    place = context.tasks.index(task) + 1 if task in context.tasks else 0  # 0: the suite
    return to_svg(shown, f"{section}-{place}-{number}")


_NARROWEST = 5.6  # inches: on a phone a wider figure is scrolled, since its text could not be read


def to_svg(shown: Drawing | None, name: str) -> Markup | None:
    """The figure for an HTML page; None if there is none.

    Args:
        name: unique in the page; every id in the figure starts with it.
    """
    if shown is None:
        return None
    buffer = io.StringIO()
    with drawing():
        if engine := shown.figure.get_layout_engine():  # else saving draws the whole figure once more for it
            engine.execute(shown.figure)
            shown.figure.set_layout_engine("none")
        shown.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = _compact(re.sub(r"<[^>]+>", lambda tag: _of_page(tag[0], name), svg))
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", opening)
    width = shown.figure.get_figwidth()
    narrow = min(width, _NARROWEST)
    label = html.escape(shown.alt, quote=True)
    return Markup(
        f'{opening} role="img" aria-labelledby="{name}-title" style="width:{width:g}in;min-width:{narrow:g}in">'
        f'<title id="{name}-title">{label}</title>{rest}'
    )


def _of_page(tag: str, name: str) -> str:
    """A tag with the page's text colour and ids of its own. Text between tags is a user's, and stays as it is."""
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    return re.sub(r'xlink:href="#', f'href="#{name}-', tag).replace(TEXT, "currentColor")


def _compact(svg: str) -> str:
    """Write the picture in half the bytes: no ids that nothing refers to, no lists of fonts, a hundredth of a point."""
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))

    def shorter(tag: re.Match[str]) -> str:
        text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", tag[0])
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
        text = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", text)
        text = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), text)
        return re.sub(r"\s+", " ", text)

    svg = re.sub(r">\s+<", "><", re.sub(r"<[^>]+>", shorter, svg))
    empty = re.compile(r"<(g|defs)></\1>")
    while empty.search(svg):
        svg = empty.sub("", svg)
    return svg
