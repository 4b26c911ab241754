"""What sections are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from markupsafe import Markup

from ablab.report.context import ReportContext
from ablab.report.figures.canvas import Drawing
from ablab.report.html.heatmap import Heatmap
from ablab.report.html.svg import to_svg


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
