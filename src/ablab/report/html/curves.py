"""Learning curves from the `metrics.csv` of each run's folder, where there is one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ablab.results.collect import Runs
from ablab.results.store import METRICS_FILE


@dataclass
class Curves:
    """One metric of one task over steps."""

    means: dict[str, pd.DataFrame] = field(default_factory=dict)  # variant -> [step] mean, min, max of its ok runs
    diverged: list[tuple[str, pd.Series]] = field(default_factory=list)  # (variant, [step] value) of each such run


def read_curve(path: Path, metric: str) -> pd.Series | None:
    """[step] the values of `metric` in a CSV log; None if there is no such file, column or value.

    Rows are sparse, as Lightning writes them: a row holds what was logged together and leaves the rest empty.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError):  # pandas' parser and empty-file errors are ValueErrors
        return None
    if not {"step", metric} <= set(table.columns):
        return None
    columns = table[["step", metric]].apply(pd.to_numeric, errors="coerce").dropna()
    curve = columns.groupby("step")[metric].last()
    curve = curve[np.isfinite(curve.to_numpy())]
    return curve if len(curve) else None


def curves_of(runs: Runs, task: str, metric: str) -> Curves:
    """The curves of one metric on one task.

    Means are taken at the steps that all of a variant's finished runs have, so that no seed enters or leaves midway.
    """
    found = Curves()
    series: dict[str, list[pd.Series]] = {}
    rows = runs.table[runs.table["task"] == task]
    for variant, path, status in zip(rows["variant"], rows["path"], rows["status"], strict=True):
        curve = read_curve(Path(path) / METRICS_FILE, metric) if status in ("ok", "diverged") else None
        if curve is None:
            continue
        if status == "ok":
            series.setdefault(variant, []).append(curve)
        else:
            found.diverged.append((variant, curve))
    for variant, seeds in series.items():
        table = pd.concat(seeds, axis=1, join="inner").sort_index()
        if len(table):
            found.means[variant] = table.agg(["mean", "min", "max"], axis=1)
    return found
