"""How each variant responds to its learning rate, by the tuning runs."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from ablab.analysis.tuned import Tuned, mean
from ablab.config.tune import RATE
from ablab.report.figures.canvas import Drawing, add_legend, drawing, legend_below, panels
from ablab.report.figures.style import MOST_VARIANTS, Style
from ablab.results.record import Direction

_WIDTH = 7.2
_FAR = 4.0  # times as far behind the best as half of all: where the scale ends
Course = list[tuple[float, float, list[float]]]  # rates with their means, and the value of each seed


def over_rates(
    tunings: Mapping[str, Tuned], metric: str, direction: Direction, styles: Mapping[str, Style]
) -> Drawing | None:
    """A line for each variant over the rates that it was tried at, a dot for each seed, a ring at what was chosen.

    `metric` need not be the one that decided, nor be good in the direction of that one. Other settings that were tuned
    are those that were chosen. None where no learning rate was tuned.
    """
    courses = {name: _course(tuned, metric) for name, tuned in tunings.items() if RATE in tuned.settings}
    courses = {name: course for name, course in courses.items() if course}
    names = list(courses)[:MOST_VARIANTS]
    if not names:
        return None
    with drawing():
        columns, room = legend_below(names, _WIDTH)
        figure, (axes,) = panels(_WIDTH, 3.6 + room)
        for name in names:
            _line(axes, name, courses[name], tunings[name].settings[RATE], styles[name])
        axes.set_xscale("log")
        _leave_out_the_far(axes, [middle for name in names for _, middle, _ in courses[name]], direction)
        axes.set_xlabel("learning rate")
        axes.set_ylabel(metric)
        add_legend(figure, [axes], columns)
    ends = "; ".join(f"{name} {_told(courses[name], tunings[name].settings[RATE])}" for name in names)
    return Drawing(figure, f"{metric} over the learning rate in tuning runs: {ends}")


def _course(tuned: Tuned, metric: str) -> Course:
    found: Course = []
    for rate in tuned.grid(RATE):
        values = tuned.at(RATE, rate, metric) or ()
        middle = mean(values)
        if middle is not None:
            found.append((rate, middle, [value for value in values if value is not None]))
    return found


def _line(axes: Axes, name: str, course: Course, chosen: float, style: Style) -> None:
    axes.plot(
        [rate for rate, _, _ in course],
        [middle for _, middle, _ in course],
        "-",
        marker=style.marker,
        color=style.colour,
        markersize=6,
        label=style.name or name,
    )
    for rate, middle, values in course:
        axes.plot([rate] * len(values), values, ".", color=style.colour, markersize=4, alpha=0.6)
        if rate == chosen:
            axes.plot([rate], [middle], "o", color=style.colour, markersize=13, fillstyle="none")


def _leave_out_the_far(axes: Axes, means: list[float], direction: Direction) -> None:
    """End the scale where rates are so much worse that the others would be one line."""
    best, sign = (min(means), 1) if direction == "min" else (max(means), -1)
    behind = sorted(abs(value - best) for value in means)
    most = _FAR * (behind[len(behind) // 2] or behind[-1])
    if behind[-1] > most > 0:
        axes.set_ylim(*sorted((best - sign * 0.1 * most, best + sign * most)))


def _told(course: Course, chosen: float) -> str:
    return ", ".join(f"{middle:.4g} at {rate:g}{' (chosen)' * (rate == chosen)}" for rate, middle, _ in course)
