"""Does each component do what it claims? What it was seen to do, axis by axis."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ablab.analysis.curves import Band
from ablab.report import drawings
from ablab.report.context import LEARNING_RATE, ReportContext
from ablab.report.figures.canvas import Drawing
from ablab.report.figures.curves import Panel, curves
from ablab.report.formatting import metric_text
from ablab.report.html.sections.base import Block, Section, per_task, svg
from ablab.report.html.sections.modalities import is_share, matrices

_LAYER = re.compile(r"(?P<name>[^/]+/[^/]+)/layer_(?P<layer>\d+)")
_MOST_PANELS = 6  # of one axis; the records have every figure
_TRACE = {"schedule": LEARNING_RATE}  # axis -> the curve of metrics.csv that shows what it does
_NONE = "No mechanism metrics were recorded."
_MATRICES = (
    "The share of attention that queries of one modality (rows) give to the keys of another (columns), as means over "
    "seeds; a row adds up to 1. Colours: none at 0, deepest at 1."
)


def mechanism(context: ReportContext) -> Section:
    def blocks(task: str) -> list[Block]:
        measured = _measured(context, task)
        if measured.empty:
            return [Block(otherwise=_NONE)]
        means = measured.groupby("variant", sort=False).mean()
        spread = measured.groupby("variant", sort=False).std()
        made = []
        for number, axis in enumerate(dict.fromkeys(_axis(name) for name in means.columns)):
            names = [name for name in means.columns if _axis(name) == axis and not is_share(name)]
            drawn = svg(context, _figure(context, task, axis, means, names), "mechanism", task, number)
            whole = [name for name in names if name.count("/") == 1]
            if drawn or whole:
                made.append(Block(title=axis, figure=drawn, table=_table(means, spread, whole) if whole else None))
        for place, matrix in enumerate(matrices(context.runs, task)):
            title, text = ("Attention between modalities", _MATRICES) if place == 0 else ("", "")
            made.append(Block(title=title, text=text, lines=[matrix.variant], grids=matrix.layers))
        return made or [Block(otherwise=_NONE)]

    return Section(
        "mechanism",
        "Mechanism: does each component do what it claims?",
        "Means over the seeds that ended well; lines show single layers, or a course over the training.",
        per_task(context, blocks),
    )


def _measured(context: ReportContext, task: str) -> pd.DataFrame:
    """One row per run that ended well: its variant and mechanism metrics, NaN where they are not finite."""
    table = context.runs.table
    ok = table[(table["task"] == task) & (table["status"] == "ok")]
    names = sorted({name for place in ok.index for name in context.runs.records[int(place)].mechanism})
    if not names:
        return pd.DataFrame()
    values = ok[names].astype(float).replace([math.inf, -math.inf], math.nan)
    return pd.concat([ok["variant"], values], axis=1)


def _axis(name: str) -> str:
    return name.partition("/")[0]


def _table(means: pd.DataFrame, spread: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A row per variant, mean and standard deviation over its seeds."""
    shown = {
        name.partition("/")[2]: [metric_text(*both) for both in zip(means[name], spread[name], strict=True)]
        for name in names
    }
    return pd.DataFrame({"variant": means.index, **shown})


def _figure(context: ReportContext, task: str, axis: str, means: pd.DataFrame, names: Iterable[str]) -> Drawing | None:
    if axis in _TRACE:
        return drawings.trace(context, task, _TRACE[axis])
    layers: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _LAYER.fullmatch(name):
            layers.setdefault(match["name"], {})[int(match["layer"])] = name
    shown = [variant for variant in context.drawn(task).variants if variant in means.index]
    found = [
        Panel(
            "layer", name.partition("/")[2], _bands(means.loc[shown, [of[layer] for layer in sorted(of)]], sorted(of))
        )
        for name, of in sorted(layers.items())
        if len(of) > 1
    ]
    return curves(found[:_MOST_PANELS], context.styles)


def _bands(means: pd.DataFrame, layers: Sequence[int]) -> dict[str, Band]:
    """Variant -> its means by layer, without an interval; none for a variant that lacks one."""
    x = np.array(layers, dtype=float)
    return {
        str(variant): Band(x, row, None, None, ())
        for variant, row in zip(means.index, means.to_numpy(dtype=float), strict=True)
        if np.isfinite(row).all()
    }
