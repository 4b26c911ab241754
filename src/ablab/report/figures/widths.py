"""How far a few steps of training move what the parts of a model give, over the width: a coordinate check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from ablab.errors import UserError
from ablab.report.figures.canvas import Drawing, add_legend, drawing, legend_below, panels
from ablab.report.figures.style import MOST_VARIANTS, TEXT, Style, styles

Course = Sequence[tuple[int, float]]
SUFFIXES = (".svg", ".png", ".pdf")
_WIDTH, _HEIGHT = 8.6, 3.8


def over_widths(found: Mapping[str, Mapping[str, Course]]) -> Drawing:
    """A panel for each parametrisation, with a line for each part; both axes are logarithmic, and both panels alike.

    Args:
        found: parametrisation -> part of the model -> (width, size of the change).
    """
    parts = list(dict.fromkeys(part for each in found.values() for part in each))[:MOST_VARIANTS]
    looks = styles(parts, parts[-1])
    with drawing():
        columns, room = legend_below(parts, _WIDTH)
        figure, panes = panels(_WIDTH, _HEIGHT + room, columns=len(found))
        for axes, (name, courses) in zip(panes, found.items(), strict=True):
            _panel(axes, f"parametrisation={name}", {part: courses[part] for part in parts if part in courses}, looks)
        low, high = min(axes.get_ylim()[0] for axes in panes), max(axes.get_ylim()[1] for axes in panes)
        for axes in panes:
            axes.set_ylim(low, high)
        panes[0].set_ylabel("change of what a part gives (rms)")
        add_legend(figure, panes, columns)
    ends = "; ".join(f"{name}: {_told(courses)}" for name, courses in found.items())
    return Drawing(figure, f"change of what parts give over the width: {ends}")


def require_picture(path: Path) -> None:
    """Raises UserError where no picture can be written to `path`."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--figure {path}: must end in {' or '.join(SUFFIXES)}")
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--figure {path}: {'is a folder' if path.is_dir() else 'no such folder'}")


def save(shown: Drawing, path: Path) -> None:
    """Write a drawing for a white page, as the file's name says."""
    with drawing():
        shown.figure.savefig(path, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axes: Axes, title: str, courses: Mapping[str, Course], looks: Mapping[str, Style]) -> None:
    for part, course in courses.items():
        widths, sizes = zip(*course, strict=True)
        look = looks[part]
        axes.plot(widths, sizes, "-", marker=look.marker, color=look.colour, markersize=5, linewidth=1.2, label=part)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({width for course in courses.values() for width, _ in course}))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("model.d_model")
    axes.set_title(title, fontsize=10, color=TEXT)
    axes.grid(alpha=0.25)


def _told(courses: Mapping[str, Course]) -> str:
    return ", ".join(
        f"{part} from {course[0][1]:.2g} at {course[0][0]:,} to {course[-1][1]:.2g} at {course[-1][0]:,}"
        for part, course in courses.items()
    )
