"""Learning curves out of `metrics.csv`, fast enough for the runs of a large study.

A file has a row for each thing logged, several of one step among them, and a column per metric; most cells are empty.
Only what is wanted is turned into numbers.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablab.results.kept import kept_curves
from ablab.results.record import LARGEST
from ablab.results.store import METRICS_FILE


@dataclass(frozen=True, eq=False)
class Curve:
    """The finite values of one metric in one run, at least one of them."""

    step: NDArray[np.int64]  # [points] optimizer steps taken, ascending
    value: NDArray[np.float64]  # [points]


def read_curves(path: Path, metrics: Collection[str] | None) -> dict[str, Curve]:
    """Return the curves of those `metrics` that the file has finite values of; none where there is no file or no step.

    Of all metrics where `metrics` is None.

    Of a step that was logged twice the later value counts. A last row without an end was cut off in the writing, and is
    left out, as is any other row whose step is no number.
    """
    if path.exists() and not path.is_file():  # a pipe, which would be waited for
        return {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except NotADirectoryError:  # the run is one of a kept file
        text = kept_curves(path.parent)
    except OSError:
        return {}
    lines = text[: text.rfind("\n") + 1].splitlines()
    header = next(csv.reader(lines), [])
    if "step" not in header:
        return {}
    at = header.index("step")
    asked = header if metrics is None else [name for name in metrics if name in header]
    found: dict[str, dict[int, float]] = {name: {} for name in asked if name != "step"}
    wanted = [(header.index(name), points) for name, points in found.items()]
    last = max([at, *(column for column, _ in wanted)])
    for row in _rows(lines[1:], last):
        for column, points in wanted:
            if column < len(row) and row[column]:
                _add(points, row[at], row[column])
    return {name: _curve(points) for name, points in found.items() if points}


def rows_sha256(path: Path, rows: int | None = None) -> tuple[int, str]:
    """Return how many rows the file has, and a checksum of the first `rows` of them; 0 where there is no file.

    Columns that come later, and where they stand, change nothing of it.
    """
    digest, count = hashlib.sha256(), 0
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        table = csv.reader(lines)
        header = next(table, [])
        for row in table if rows is None else islice(table, rows):
            cells = sorted(f"{name}={cell}" for name, cell in zip(header, row, strict=False) if cell)
            digest.update("\n".join([*cells, ""]).encode())
            count += 1
    except (OSError, csv.Error):
        return 0, ""
    return count, digest.hexdigest()


class CurveCache:
    """Reads each run's file once, however many curves of it are asked for.

    Args:
        metrics: that will be asked for; another one costs another reading.
    """

    def __init__(self, metrics: Collection[str] = ()) -> None:
        self._metrics = set(metrics)
        self._read: dict[Path, tuple[frozenset[str], dict[str, Curve]]] = {}

    def __call__(self, folder: str | Path, metric: str) -> Curve | None:
        """Return the curve of `metric` in the run in `folder`; None if it has none."""
        path = Path(folder) / METRICS_FILE
        self._metrics.add(metric)
        if path not in self._read or metric not in self._read[path][0]:
            names = frozenset(self._metrics)
            self._read[path] = names, read_curves(path, names)
        return self._read[path][1].get(metric)


def _rows(lines: list[str], last: int) -> Iterable[list[str]]:
    """The cells of each line, those behind column `last` perhaps in one. Only the names of metrics are ever quoted."""
    return csv.reader(lines) if any('"' in line for line in lines) else (line.split(",", last + 1) for line in lines)


def _add(points: dict[int, float], step: str, value: str) -> None:
    try:
        number, at = float(value), int(step)
        if abs(number) <= LARGEST and abs(at) < 2**63:  # no NaN
            points[at] = number
    except ValueError:
        return


def _curve(points: dict[int, float]) -> Curve:
    steps = sorted(points)
    return Curve(np.array(steps, dtype=np.int64), np.array([points[step] for step in steps], dtype=np.float64))
