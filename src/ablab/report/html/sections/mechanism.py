"""Does each component do what it claims? What it was seen to do, axis by axis.

Also whom each modality attends to: the share of attention that its queries give to every modality's keys, by layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ablab.analysis.curves import Band
from ablab.analysis.pairing import counting, variants
from ablab.config.axes import AXES
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.figures.canvas import Drawing, some_of
from ablab.report.figures.curves import Panel, curves
from ablab.report.formatting import metric_text
from ablab.report.html.blocks import Block, Heatmap, Scale, Section, heatmap, per_task, svg
from ablab.report.rows import mean_sd
from ablab.results.collect import Runs
from ablab.results.record import Record

_LAYER = re.compile(r"(?P<name>[^/]+/[^/]+)/layer_(?P<layer>\d+)")
_MOST_PANELS = 6  # of one axis; the records have every figure
_CURVES = {axis.name: axis.curve for axis in AXES.values() if axis.curve}
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
                tables = _tables(means, spread, whole)
                made.append(Block(title=axis, figure=drawn, table=tables[0] if tables else None))
                made += [Block(table=table) for table in tables[1:]]
        for place, matrix in enumerate(matrices(context.runs, task)):
            title, text = ("Attention between modalities", _MATRICES) if place == 0 else ("", "")
            made.append(Block(title=title, text=text, lines=[matrix.variant], grids=matrix.layers))
        return made or [Block(otherwise=_NONE)]

    return Section(
        "mechanism",
        "Mechanism: does each component do what it claims?",
        "Means over the seeds that ended well; lines show single layers, or a course over the training.",
        per_task(context, blocks, folding=True),
    )


def _measured(context: ReportContext, task: str) -> pd.DataFrame:
    """One row per seed that ended well: its variant and mechanism metrics, NaN where they are not finite."""
    runs = context.runs
    ok = [(variant, record.mechanism) for variant in variants(runs) for record in counting(runs, task, variant)]
    names = sorted({name for _, mechanism in ok for name in mechanism})
    if not names:
        return pd.DataFrame()
    values = pd.DataFrame([mechanism for _, mechanism in ok], columns=names, dtype=float)
    values = values.replace([math.inf, -math.inf], math.nan)
    return pd.concat([pd.Series([variant for variant, _ in ok], name="variant"), values], axis=1)


def _axis(name: str) -> str:
    return name.partition("/")[0]


def _tables(means: pd.DataFrame, spread: pd.DataFrame, names: Sequence[str]) -> list[pd.DataFrame]:
    """A table of the metrics that the same variants have, what most of them have first.

    Options of one axis tell different things: side by side in one table they would be a column each for a row or two.
    """
    whose: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        having = tuple(means.index[means[name].notna()])
        whose.setdefault(having or tuple(means.index), []).append(name)
    ordered = sorted(whose.items(), key=lambda item: -len(item[0]))
    return [_table(means.loc[[*having]], spread.loc[[*having]], own) for having, own in ordered]


def _table(means: pd.DataFrame, spread: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A row per variant, mean and standard deviation over its seeds."""
    shown = {
        name.partition("/")[2]: [metric_text(*both) for both in zip(means[name], spread[name], strict=True)]
        for name in names
    }
    return pd.DataFrame({"variant": means.index, **shown})


def _figure(context: ReportContext, task: str, axis: str, means: pd.DataFrame, names: Iterable[str]) -> Drawing | None:
    if axis in _CURVES:
        return drawings.trace(context, task, _CURVES[axis])
    layers: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _LAYER.fullmatch(name):
            layers.setdefault(match["name"], {})[int(match["layer"])] = name
    shown = [variant for variant in context.drawn(task).variants if variant in means.index]
    found = [
        Panel(
            "layer", name.partition("/")[2], _bands(means.loc[shown, [of[layer] for layer in sorted(of)]], sorted(of))
        )
        for name, of in sorted(layers.items(), key=lambda item: (-_told(means, item[1].values()), item[0]))
        if len(of) > 1
    ]
    drawn = curves(found[:_MOST_PANELS], context.styles)
    left_out = some_of(min(len(found), _MOST_PANELS), len(found), "metrics by layer", "those that most variants have")
    return drawn and replace(drawn, alt=f"{drawn.alt}. {left_out}" if left_out else drawn.alt, left_out=left_out)


def _told(means: pd.DataFrame, names: Iterable[str]) -> int:
    """How many variants have metrics: what most of them have is what they are compared by."""
    return int(means[list(names)].notna().all(axis=1).sum())


def _bands(means: pd.DataFrame, layers: Sequence[int]) -> dict[str, Band]:
    """Variant -> its means by layer, without an interval; none for a variant that lacks one."""
    x = np.array(layers, dtype=float)
    return {
        str(variant): Band(x, row, None, None, ())
        for variant, row in zip(means.index, means.to_numpy(dtype=float), strict=True)
        if np.isfinite(row).all()
    }


_SHARE = re.compile(r"[^/]+/(?P<query>.+?)_from_(?P<key>[^/]+)(?:/layer_(?P<layer>\d+))?")
_SHARES = Scale(0.0, 1.0)  # a row adds up to 1
MEAN = -1  # stands for the mean over layers, which is all that a model of one layer has

Shares = dict[int, dict[tuple[str, str], str]]  # layer -> (query, key) -> name of the metric


@dataclass(frozen=True)
class Matrices:
    """One variant: a matrix per layer, queries down, keys across."""

    variant: str
    layers: list[Heatmap]


def is_share(name: str) -> bool:
    """Whether a mechanism metric is an entry of such a matrix: "modal_fusion/text_from_image/layer_0"."""
    return _SHARE.fullmatch(name) is not None


def matrices(runs: Runs, task: str) -> list[Matrices]:
    """The matrices of every variant that has them, as means over its seeds that ended well."""
    found = []
    for variant in variants(runs):
        ok = counting(runs, task, variant)
        layers = _shares_by_layer(ok)
        if layers:
            found.append(Matrices(variant, [_matrix(ok, layer, names) for layer, names in sorted(layers.items())]))
    return found


def _shares_by_layer(records: list[Record]) -> Shares:
    """The metrics of each layer; those of the mean over layers only if there are no others."""
    layers: Shares = {}
    for name in dict.fromkeys(name for record in records for name in record.mechanism):
        if match := _SHARE.fullmatch(name):
            layer = MEAN if match["layer"] is None else int(match["layer"])
            layers.setdefault(layer, {})[match["query"], match["key"]] = name
    if len(layers) > 1:
        layers.pop(MEAN, None)
    return layers


def _matrix(records: list[Record], layer: int, names: dict[tuple[str, str], str]) -> Heatmap:
    modalities = list(dict.fromkeys(modality for pair in names for modality in pair))
    frame = pd.DataFrame(
        math.nan, index=pd.Index(modalities, name="query"), columns=pd.Index(modalities, name="key"), dtype=float
    )
    for (query, key), name in names.items():
        frame.loc[query, key] = mean_sd([record.mechanism.get(name, math.nan) for record in records])[0]
    return heatmap("mean over layers" if layer == MEAN else f"layer {layer}", frame, _SHARES)
