"""The view of a study: event files in a folder of their own, which can be made anew from the records at any time.

It holds margin charts of the curves, the verdicts as text and their figures as pictures.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from ablab.analysis.comparison import ComparisonSettings
from ablab.errors import UserError
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.dashboard.margins import category, charts, points
from ablab.report.dashboard.summaries import event, image, layout, text, write_events
from ablab.report.figures.canvas import DOTS_PER_INCH, Drawing
from ablab.report.formats.text import markdown_tables, markdown_verdicts
from ablab.results.hparams import experiment_files, write_experiment
from ablab.results.record import Record
from ablab.study.planning.expand import folder_name

VIEW_FOLDER = "dashboard"
_SUFFIX = ".view"
_APART_S = 1e-6  # which no run that begins meanwhile comes between
_EVENT_FILES = "events.out.tfevents.*"


@dataclass(frozen=True)
class View:
    """A view of all runs below a folder, before it is written."""

    events: dict[str, list[Event]]  # by run of TensorBoard's, below the folder of the view; "" is that one itself
    records: list[Record]


def make_view(folder: Path, **comparison: Unpack[ComparisonSettings]) -> View:
    """The view of all runs below `folder`, as `ablab compare` sees them.

    Args:
        comparison: as `ablab.analysis.comparison.compare` takes it.

    Raises:
        UserError: no runs, or they cannot be compared as asked.
    """
    context = ReportContext.read([folder], **comparison)
    name = folder.resolve().name or "runs"
    shown = {task: charts(context, task, f"{name}/{task}") for task in context.tasks}
    categories = [category(f"{name}: {task}", found) for task, found in shown.items() if found]
    values = [
        *([layout(Layout(category=categories))] if categories else []),
        *texts(context, name),
        *pictures(context, name),
    ]
    events = {"": [event(0, values)]}
    for variant in context.variants:
        curve = [
            each
            for found in shown.values()
            for chart in found
            if variant in chart.bands
            for each in points(chart, variant)
        ]
        if curve:
            events[folder_name(variant)] = curve
    return View(events, context.runs.records)


@dataclass(frozen=True)
class Removed:
    """Traces of an earlier view."""

    runs: set[str]  # TensorBoard's names of those that have no file left, and so will disappear from it
    columns: set[Path]  # folders that held the columns of the HPARAMS tab


def remove_view(folder: Path) -> Removed:
    """Remove an earlier view of `folder`, and the columns of the HPARAMS tab from it and below it.

    Raises:
        UserError: what lies at the place of the view is none.
        OSError: it cannot be removed.
    """
    place = folder / VIEW_FOLDER
    _check_ours(place)
    columns = {file.parent for file in experiment_files(folder)}
    files = [*place.rglob(f"{_EVENT_FILES}{_SUFFIX}"), *experiment_files(folder)]
    for file in files:
        file.unlink()
    for emptied in sorted({place, *(path for path in place.rglob("*") if path.is_dir())}, reverse=True):
        if emptied.is_dir():  # those below come before those above
            emptied.rmdir()
    bare = {file.parent for file in files if not any(file.parent.glob(_EVENT_FILES))}
    return Removed({str(each.relative_to(folder)) for each in bare}, columns)


def write_view(folder: Path, view: View, columns: set[Path]) -> None:
    """Write the view into `folder`/dashboard, and the columns of the HPARAMS tab for all runs below `folder`.

    The variants follow each other in time without a gap, however long writing takes: TensorBoard has seven colours,
    which it gives to all runs in turn, so that up to seven variants have different ones.

    TensorBoard takes the columns of any folder that has them, so they are the same in all of them.

    Args:
        columns: folders that held columns before, as `remove_view` found them.

    Raises:
        OSError: it cannot be written.
    """
    began = time.time()
    for place, (run, events) in enumerate(view.events.items()):
        write_events(folder / VIEW_FOLDER / run, _SUFFIX, events, began + place * _APART_S)
    for holder in {folder, *columns}:
        write_experiment(holder, view.records)


def _check_ours(place: Path) -> None:
    """Raises UserError where something else lies there, or a link: nothing is removed or written elsewhere."""
    if linked := next((path for path in [place, *place.rglob("*")] if path.is_symlink()), None):
        raise UserError(f"{linked} is a link, which may lead elsewhere: remove it")
    foreign = [path for path in place.rglob("*") if path.is_file() and not path.name.endswith(_SUFFIX)]
    if foreign or (place.exists() and not place.is_dir()):
        raise UserError(f"{place} holds something else ({(foreign or [place])[0].name})")


_FIGURES = {
    "effects": drawings.forest,
    "seed by seed": drawings.slopes,
    "what these seeds could have detected": drawings.detectable,
}
_OF_TASKS = {"learning curves": drawings.curves}  # in which curves can be told apart that margin charts draw as one


def texts(context: ReportContext, name: str) -> Iterator[Summary.Value]:
    """The verdicts, and the tables that they rest on. Text of the user's is escaped."""
    ends = Counter(record.status for record in context.runs.records)
    counted = ", ".join(f"{count} {status}" for status, count in ends.items())
    yield text(f"{name}/verdicts", f"{len(context.runs.records)} runs: {counted}.\n\n{markdown_verdicts(context)}")
    yield text(f"{name}/tables", "\n\n".join(markdown_tables(context)))


def pictures(context: ReportContext, name: str) -> Iterator[Summary.Value]:
    """The figures of the suite and of each task, as far as their runs have something to draw."""
    for part in [context.suite, *context.tasks] if context.suite else context.tasks:
        for title, draw in (_FIGURES if part == context.suite else _FIGURES | _OF_TASKS).items():
            if drawn := draw(context, part):
                yield _picture(f"{name}/{part}/{title}", drawn)


def _picture(tag: str, drawn: Drawing) -> Summary.Value:
    width, height = (int(inches * DOTS_PER_INCH) for inches in drawn.figure.get_size_inches())
    return image(tag, drawn.figure.png(), width, height, drawn.alt)
