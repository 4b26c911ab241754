"""Does each component do what it claims? What it was seen to do, axis by axis."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from ablab.analysis.curves import Band
from ablab.report import drawings
from ablab.report.figures.canvas import Drawing
from ablab.report.figures.curves import Panel, curves
from ablab.report.html.sections.base import Block, Section, per_task, svg
from ablab.report.html.sections.modalities import is_share, matrices
from ablab.report.material import Material
from ablab.report.tables import mean_sd, records_of
from ablab.report.units import figure
from ablab.results.record import Record

_LAYER = re.compile(r"(?P<name>[^/]+/[^/]+)/layer_(?P<layer>\d+)")
_MOST_PANELS = 6  # of one axis; the tables have every figure
_TRACE = {"schedule": "learning_rate"}  # axis -> the curve of metrics.csv that shows what it does
_MATRICES = (
    "The share of attention that queries of one modality (rows) give to the keys of another (columns), as means over "
    "seeds; a row adds up to 1. Colours: none at 0, deepest at 1."
)

Ok = Mapping[str, list[Record]]  # variant -> its runs that ended well


def mechanism(material: Material) -> Section:
    def blocks(task: str) -> list[Block]:
        records = {variant: records_of(material.runs, task, variant) for variant in material.variants}
        ok = {variant: [r for r in found if r.status == "ok"] for variant, found in records.items() if found}
        made = []
        for number, (axis, names) in enumerate(_by_axis(ok).items()):
            drawn = svg(material, _figure(material, task, axis, ok), "mechanism", task, number)
            made.append(Block(title=axis, figure=drawn, table=_table(ok, names) if names else None))
        for place, matrix in enumerate(matrices(material.runs, task)):
            title, text = ("Attention between modalities", _MATRICES) if place == 0 else ("", "")
            made.append(Block(title=title, text=text, lines=[matrix.variant], grids=matrix.layers))
        return made or [Block(otherwise="No mechanism metrics were recorded.")]

    return Section(
        "mechanism",
        "Mechanism: does each component do what it claims?",
        "Means over the seeds that ended well; lines show single layers, or a course over the training.",
        per_task(material, blocks),
    )


def _by_axis(ok: Ok) -> dict[str, list[str]]:
    """axis -> its figures of the whole model. Those of single layers are drawn; shares have matrices instead."""
    measured = sorted({name for found in ok.values() for record in found for name in record.mechanism})
    axes: dict[str, list[str]] = {}
    for name in measured:
        own = axes.setdefault(name.split("/")[0], [])
        if name.count("/") == 1 and not is_share(name):
            own.append(name)
    return {axis: names for axis, names in axes.items() if names or not all(map(is_share, _of(measured, axis)))}


def _of(names: Iterable[str], axis: str) -> list[str]:
    return [name for name in names if name.split("/")[0] == axis]


def _table(ok: Ok, names: list[str]) -> pd.DataFrame:
    rows = []
    for variant, found in ok.items():
        values = {
            name.partition("/")[2]: figure(*mean_sd([r.mechanism[name] for r in found if name in r.mechanism]))
            for name in names
        }
        rows.append({"variant": variant, **values})
    return pd.DataFrame(rows)


def _figure(material: Material, task: str, axis: str, ok: Ok) -> Drawing | None:
    if axis in _TRACE:
        return drawings.trace(material, task, _TRACE[axis])
    layers: dict[str, dict[str, Band]] = {}
    for variant, found in ok.items():
        for name, values in _by_layer(found, axis).items():
            places = np.array(sorted(values), dtype=float)
            means = np.array([mean_sd(values[int(place)])[0] for place in places])
            if len(places) > 1 and np.isfinite(means).all():
                layers.setdefault(name, {})[variant] = Band(places, means, None, None, ())
    shown = [Panel("layer", name.partition("/")[2], bands) for name, bands in sorted(layers.items())]
    return curves(shown[:_MOST_PANELS], material.looks, columns=2)


def _by_layer(records: list[Record], axis: str) -> dict[str, dict[int, list[float]]]:
    """figure -> layer -> its values over seeds."""
    found: dict[str, dict[int, list[float]]] = {}
    for record in records:
        for name, value in record.mechanism.items():
            match = _LAYER.fullmatch(name)
            if match and name.split("/")[0] == axis and not is_share(name):
                found.setdefault(match["name"], {}).setdefault(int(match["layer"]), []).append(value)
    return found
