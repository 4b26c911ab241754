"""Whom each modality attends to: the share of attention that its queries give to every modality's keys, by layer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import pandas as pd

from ablab.analysis.pairing import variants
from ablab.report.html.heatmap import Heatmap, Scale, heatmap
from ablab.report.rows import mean_sd, records_of
from ablab.results.collect import Runs
from ablab.results.record import Record

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
    """The matrices of every variant that has them, as means over its runs that ended well."""
    found = []
    for variant in variants(runs):
        ok = [record for record in records_of(runs, task, variant) if record.status == "ok"]
        layers = _layers(ok)
        if layers:
            found.append(Matrices(variant, [_matrix(ok, layer, names) for layer, names in sorted(layers.items())]))
    return found


def _layers(records: list[Record]) -> Shares:
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
