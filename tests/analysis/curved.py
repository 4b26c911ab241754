"""Synthetic runs with learning curves that the test chooses, kept in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from synthetic import cost, ended, record, runs_of

from ablab.results.collect import Runs
from ablab.results.curves import Curve

Reader = Callable[[str, str], Curve | None]
STEPS = (10, 20, 30, 40)


class Curved:
    """`runs`, and the `reader` of their curves of val_loss. One run of another variant failed at once."""

    def __init__(self) -> None:
        self._records = [ended("failed", "boom", 1, axes={"activation": "failing"})]
        self._curves: list[Curve | None] = [None]

    def add(
        self,
        option: str,
        seed: int,
        curve: Callable[[float], float] | Sequence[float] | None,
        steps: Sequence[int] = STEPS,
        status: str = "ok",
        tokens_per_step: int = 64,
        step_time_s: float | None = 0.5,
    ) -> None:
        """A run of activation=`option` with the values of `curve` at `steps`; of None, without a curve."""
        values = [math.nan] if curve is None else list(map(curve, steps)) if callable(curve) else list(curve)
        axes = {"activation": option}
        made = record(seed, values[-1], axes=axes) if status == "ok" else ended(status, "why", seed, axes=axes)
        made.cost = cost(
            made,
            steps=steps[-1],
            tokens=tokens_per_step * steps[-1],
            train_time_s=None if step_time_s is None else step_time_s * steps[-1],
        )
        self._records.append(made)
        self._curves.append(None if curve is None else Curve(np.array(steps), np.array(values, dtype=float)))

    @property
    def runs(self) -> Runs:
        return runs_of(self._records)

    @property
    def reader(self) -> Reader:
        by_path = dict(zip(self.runs.table["path"], self._curves, strict=True))
        return lambda path, metric: by_path[str(path)] if metric == "val_loss" else None
