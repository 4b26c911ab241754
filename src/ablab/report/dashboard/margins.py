"""Margin charts: the mean and the interval of each variant over the steps, for the tab "Custom Scalars".

The tab draws a line for every run of TensorBoard's that has the tags of a chart, in the run's colour. So each variant
is a run of its own, a chart has one series of three tags, and all variants carry the same tags; several series in a
chart would have one colour, and TensorBoard would complain of every run that lacks them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar import layout_pb2

from ablab.analysis.curves import Band, aligned, difference
from ablab.report.context import TRAINING_LOSS, ReportContext
from ablab.report.dashboard.summaries import event, scalar
from ablab.report.sentences import against
from ablab.results.curves import CurveCache

_MOST_METRICS = 6
# TensorBoard samples longer curves, and refuses to draw a margin whose bounds were sampled at other steps.
_POINTS = 500


@dataclass(frozen=True)
class Chart:
    """One margin chart: its title, the tag above its three series, and the curve of each variant."""

    title: str
    tag: str
    bands: Mapping[str, Band]


def charts(context: ReportContext, task: str, prefix: str) -> list[Chart]:
    """For each metric of `task` with learning curves: its values, and their paired difference to their baseline.

    Args:
        prefix: of the tags, so that views of other folders that TensorBoard finds, too, stay apart.
    """
    metrics = _metrics(context, task)
    reader, baselines = CurveCache(metrics), context.comparisons.baselines
    found = []
    for metric in metrics:
        means = aligned(context.runs, task, metric, reader=reader).bands
        found.append(Chart(f"{metric}: mean over seeds", f"{prefix}/{metric}", means))
        apart = difference(context.runs, task, metric, baselines, reader=reader)
        found.append(
            Chart(f"{metric}: paired difference to {against(baselines)}", f"{prefix}/{metric}/difference", apart)
        )
    return [chart for chart in found if chart.bands]


def category(title: str, shown: Sequence[Chart]) -> layout_pb2.Category:
    """The charts of one task under their heading, in the order given, which is not that of the proto."""
    return layout_pb2.Category(
        title=title,
        chart=[
            layout_pb2.Chart(
                title=chart.title,
                margin=layout_pb2.MarginChartContent(
                    series=[
                        layout_pb2.MarginChartContent.Series(
                            value=f"{chart.tag}/mean", lower=f"{chart.tag}/lower", upper=f"{chart.tag}/upper"
                        )
                    ]
                ),
            )
            for chart in reversed(shown)  # TensorBoard 2.20 and 2.21 set the last one first
        ],
    )


def points(chart: Chart, variant: str) -> Iterator[Event]:
    """The curve of one variant; where there is no interval its bounds are the mean."""
    band = chart.bands[variant]
    low, high = (band.mean if bound is None else bound for bound in (band.low, band.high))
    steps, places = np.unique(np.round(band.x).astype(int), return_index=True)
    for place in np.unique(np.linspace(0, len(steps) - 1, min(_POINTS, len(steps))).astype(int)):
        values = {"mean": band.mean, "lower": low, "upper": high}
        at = places[place]
        yield event(int(steps[place]), [scalar(f"{chart.tag}/{name}", float(v[at])) for name, v in values.items()])


def _metrics(context: ReportContext, task: str) -> list[str]:
    """The compared metric, the training loss, then the other metrics of validation."""
    runs, compared = context.runs, context.comparisons.metrics[task]
    chosen = runs.table.index[runs.table["task"] == task]
    others = sorted({name for place in chosen for name in runs.records[int(place)].metrics if name.startswith("val_")})
    first = [compared] if compared else []
    return list(dict.fromkeys([*first, TRAINING_LOSS, *others]))[:_MOST_METRICS]
