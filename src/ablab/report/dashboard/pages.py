"""The verdicts as text and their figures as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tensorboard.compat.proto.summary_pb2 import Summary

from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.dashboard.summaries import image, text
from ablab.report.figures.canvas import DOTS_PER_INCH, Drawing
from ablab.report.formats.markdown import tables, verdicts

_FIGURES = {
    "effects": drawings.forest,
    "seed by seed": drawings.slopes,
    "what these seeds could have detected": drawings.detectable,
}


def texts(context: ReportContext, name: str) -> Iterator[Summary.Value]:
    """The verdicts, and the tables that they rest on. Text of the user's is escaped."""
    ends = Counter(record.status for record in context.runs.records)
    counted = ", ".join(f"{count} {status}" for status, count in ends.items())
    yield text(f"{name}/verdicts", f"{len(context.runs.records)} runs: {counted}.\n\n{verdicts(context.comparisons)}")
    yield text(f"{name}/tables", "\n\n".join(tables(context)))


def pictures(context: ReportContext, name: str) -> Iterator[Summary.Value]:
    """The figures of the suite and of each task, as far as their runs have something to draw."""
    for part in [context.suite, *context.tasks] if context.suite else context.tasks:
        for title, draw in _FIGURES.items():
            if drawn := draw(context, part):
                yield _picture(f"{name}/{part}/{title}", drawn)


def _picture(tag: str, drawn: Drawing) -> Summary.Value:
    width, height = (int(inches * DOTS_PER_INCH) for inches in drawn.figure.get_size_inches())
    return image(tag, drawn.figure.png(), width, height, drawn.alt)
