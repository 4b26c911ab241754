"""The values that variants reached beside those of theory: chance, the ceiling, and the ceiling of a window."""

from __future__ import annotations

from statistics import fmean

from matplotlib.axes import Axes

from ablab.report.figures.canvas import Drawing, add_legend, drawing, only_rows, panels, row_height
from ablab.report.figures.style import TEXT, Style
from ablab.report.formatting import metric_text as shown
from ablab.report.theory import Theory

_DASHES = (":", "--", "-.", (0, (1, 4)))  # of the known values, in order: chance is dotted, the ceiling dashed
_REACH = 0.36  # half the height of a row's mark


def ceilings(found: Theory, styles: dict[str, Style]) -> Drawing | None:
    """One row per variant: a mark for the mean, a tick for every seed, a bar where its window's ceiling is.

    None if no variant has a value.
    """
    rows = [row for row in found.reached if row.values]
    if not rows:
        return None
    labels = [styles[row.variant].name or row.variant for row in rows]
    with drawing():
        figure, (axes,) = panels(7.2, 1.5 + row_height(labels, 0.48) * len(rows))
        for place, (known, value) in enumerate(found.known.items()):
            dashes = _DASHES[place % len(_DASHES)]
            axes.axvline(value, color=TEXT, linewidth=1, linestyle=dashes, label=f"{known} {shown(value)}")
        axes.plot([], [], "|", color=TEXT, markersize=14, markeredgewidth=2.2, label="ceiling of its window")
        for place, row in enumerate(rows):
            style = styles[row.variant]
            axes.plot(row.values, [place + 0.22] * len(row.values), "|", color=style.colour, markersize=7)
            axes.plot([fmean(row.values)], [place], style.marker, color=style.colour, markersize=8)
            if row.has_window and row.ceiling is not None:
                _window(axes, row.ceiling, place, row.bound)
        only_rows(axes, labels)
        axes.set_xlabel(found.metric, loc="right")
        axes.margins(x=0.06)
        add_legend(figure, [axes], columns=2)
    return Drawing(figure, _title(found))


def _window(axes: Axes, value: float, place: int, bound: str) -> None:
    axes.plot([value, value], [place - _REACH, place + _REACH], color=TEXT, linewidth=2.2, solid_capstyle="butt")
    axes.annotate(bound, (value, place - _REACH), xytext=(4, -7), textcoords="offset points", fontsize=8, color=TEXT)


def _title(found: Theory) -> str:
    known = ", ".join(f"{name} {shown(value)}" for name, value in found.known.items())
    rows = "; ".join(
        f"{row.variant} {shown(fmean(row.values))}"
        + (f" of {shown(row.ceiling)} ({row.bound})" if row.has_window else "")
        for row in found.reached
        if row.values
    )
    return f"{found.metric} beside what can be reached ({known}): {rows}"
