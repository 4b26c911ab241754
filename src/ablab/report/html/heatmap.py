"""Heatmaps: grids of numbers on one colour scale, set as HTML tables.

A table is the picture and its own text at once: every cell holds its number, so that nothing rests on the colour, a
screen reader reads it with its headings, and hundreds of cells weigh a few kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablab.report.formatting import MISSING

LEVELS = 10  # shades beside none; the style sheet has one class for each
_FRACTION = (0.0, 1.0)  # the scale of accuracies and shares


@dataclass(frozen=True)
class Scale:
    """The meaning of the colours, in all heatmaps that are to be compared: none for `low`, the deepest for `high`."""

    low: float
    high: float

    def level(self, value: float) -> int:
        """The shade of `value`, 0 to `LEVELS`; 0 for what is not finite."""
        if not math.isfinite(value) or self.high <= self.low:
            return 0
        share = (value - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0) * LEVELS)

    def text(self, value: float) -> str:
        """`value` as a cell shows it: two decimals on a scale of fractions."""
        if not math.isfinite(value):
            return MISSING
        return f"{value:.2f}" if (self.low, self.high) == _FRACTION else f"{value:.3g}"


@dataclass(frozen=True)
class Heatmap:
    """A grid as the template sets it."""

    caption: str
    corner: str  # what rows and columns are
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, int]]]]  # (heading, cells as (text, shade))


def scale_of(frames: Iterable[pd.DataFrame]) -> Scale:
    """0 to 1 if all values lie there, else from the lowest to the highest."""
    values = np.concatenate([np.empty(0), *(frame.to_numpy(dtype=float).ravel() for frame in frames)])
    values = values[np.isfinite(values)]
    if not len(values) or (values.min() >= 0 and values.max() <= 1):
        return Scale(*_FRACTION)
    return Scale(float(values.min()), float(values.max()))


def heatmap(caption: str, frame: pd.DataFrame, scale: Scale) -> Heatmap:
    """The numbers of `frame`; the names of its index and its columns say what they are."""
    rows = [
        (str(name), [(scale.text(value), scale.level(value)) for value in values])
        for name, values in zip(frame.index, frame.to_numpy(dtype=float).tolist(), strict=True)
    ]
    return Heatmap(caption, f"{frame.index.name} ↓ {frame.columns.name} →", list(map(str, frame.columns)), rows)
