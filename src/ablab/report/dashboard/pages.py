"""The verdicts as text and their figures as pictures."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator

from tensorboard.compat.proto.summary_pb2 import Summary

from ablab.analysis.comparison import Comparisons
from ablab.analysis.pairing import variants
from ablab.report.compare import render
from ablab.report.dashboard.summaries import image, text
from ablab.report.figures.canvas import Drawing, drawing
from ablab.report.figures.detectable import detectable_effects
from ablab.report.figures.forest import forest
from ablab.report.figures.looks import looks
from ablab.report.figures.slopes import slopes
from ablab.results.collect import Runs

_DOTS_PER_INCH = 144
_FIGURES = {"effects": forest, "seed by seed": slopes, "what these seeds could have detected": detectable_effects}


def texts(comparisons: Comparisons, runs: Runs, name: str) -> Iterator[Summary.Value]:
    """The verdicts, and the tables that they rest on. Text of the user's is escaped."""
    # Its parts are parted by empty lines, which no part has within; the verdicts are the last one.
    tables, _, verdicts = render(comparisons, runs, "markdown").rstrip("\n").rpartition("\n\n")
    ends = Counter(record.status for record in runs.records)
    counted = ", ".join(f"{count} {status}" for status, count in ends.items())
    yield text(f"{name}/verdicts", f"{len(runs.records)} runs: {counted}.\n\n{verdicts}")
    if tables:
        yield text(f"{name}/tables", tables)


def pictures(comparisons: Comparisons, runs: Runs, task: str, prefix: str) -> Iterator[Summary.Value]:
    """The figures of one task, as far as its runs have something to draw."""
    look = looks(variants(runs), comparisons.baseline)
    for title, draw in _FIGURES.items():
        if drawn := draw(comparisons.of_task(task), look):
            yield _picture(f"{prefix}/{title}", drawn)


def _picture(tag: str, drawn: Drawing) -> Summary.Value:
    width, height = (int(inches * _DOTS_PER_INCH) for inches in drawn.figure.get_size_inches())
    png = io.BytesIO()
    with drawing():
        drawn.figure.savefig(png, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    return image(tag, png.getvalue(), width, height, drawn.alt)
