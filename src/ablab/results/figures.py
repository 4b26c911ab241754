"""What a run came to, as named figures for services that show runs side by side."""

from __future__ import annotations

import math

from ablab.results.hparams import FINAL
from ablab.results.record import Record

COST = "cost/"


def final_figures(record: Record) -> dict[str, float]:
    """`final/val_loss`, `final/activation/zero_share`, ..., and `cost/parameters`, `cost/wall_time_s`, ...

    The final ones only of a run that ended well: one that stopped half-way has none. Only finite ones.
    """
    costs = {COST + name: value for name, value in vars(record.cost).items() if isinstance(value, int | float)}
    finals = {FINAL + name: value for name, value in {**record.mechanism, **record.metrics}.items()}
    figures = {**(finals if record.status == "ok" else {}), **costs}
    return {name: value for name, value in figures.items() if math.isfinite(value)}
