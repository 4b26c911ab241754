"""Learning curves: the mean over seeds, and a band from the lowest seed to the highest."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from ablab.report.html.curves import Curves
from ablab.report.html.figures.canvas import Look, drawing, legend_below, panels, to_svg

_POINTS = 120  # more than the eye resolves would only make the file large


def learning_curves(curves: dict[str, Curves], looks: dict[str, Look], name: str) -> Markup | None:
    """One panel per metric of `curves` (metric -> curves by variant); None if there is nothing to draw."""
    drawn = {metric: found for metric, found in curves.items() if found.means or found.diverged}
    if not drawn:
        return None
    with drawing():
        width = 3.7 * len(drawn) + 0.6
        columns, room = legend_below([*{variant for found in drawn.values() for variant in found.means}], width)
        figure, panes = panels(width, 3.4 + room, columns=len(drawn))
        for axes, (metric, found) in zip(panes, drawn.items(), strict=True):
            for variant, frame in found.means.items():
                keep = np.unique(np.linspace(0, len(frame) - 1, min(_POINTS, len(frame))).astype(int))
                steps, look = frame.index.to_numpy()[keep], looks[variant]
                mean, low, high = (frame[column].to_numpy()[keep] for column in ("mean", "min", "max"))
                axes.fill_between(steps, low, high, color=look.colour, alpha=0.18, linewidth=0)
                every = max(1, len(keep) // 6)
                axes.plot(
                    steps, mean, color=look.colour, marker=look.marker, markevery=every, markersize=5, label=variant
                )
            for variant, series in found.diverged:
                axes.plot(series.index.to_numpy(), series.to_numpy(), ":", color=looks[variant].colour, linewidth=1)
            axes.set_xlabel("step")
            axes.set_ylabel(metric)
        handles = {label: line for axes in panes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        if handles:
            figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, fontsize=9)
        return to_svg(figure, name, f"Learning curves of {', '.join(drawn)} by step, for {', '.join(handles)}")
