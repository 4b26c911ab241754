"""Ladders of records with planted laws: each variant's loss is a function of compute, and seeds are noise around it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from synthetic import cost, record, runs_of

from ablab.analysis.comparison import compare
from ablab.analysis.over_scale.study import LadderFindings, over_scale
from ablab.results.record import Anneal, Record

COMPUTE = (1e9, 4e9, 1.6e10, 6.4e10, 2.56e11)
Law = Callable[[float], float]


def law(floor: float, scale: float, alpha: float) -> Law:
    """L = floor + scale (C / 1e9)^-alpha."""
    return lambda compute: floor + scale * (compute / 1e9) ** -alpha


BASELINE = law(1.0, 2.0, 0.2)
VARIANTS: dict[str, Law] = {
    "relu": BASELINE,
    "better": lambda compute: BASELINE(compute) - 0.1,
    "faded": lambda compute: BASELINE(compute) + (compute / 1e9) ** -0.6,
    "nothing": BASELINE,
}


def ladder(
    laws: Mapping[str, Law] = VARIANTS,
    compute: Sequence[float] = COMPUTE,
    seeds: int = 4,
    noise: float = 0.0015,
    shared: float = 0.02,
    called: bool = True,
    **changes: Any,
) -> list[Record]:
    """A run for each variant, size and seed; what is `shared` of the noise, both of a pair have.

    Args:
        called: the sizes are those of a ladder; else of a setting that the study compares within.
    """
    random = np.random.default_rng(3)
    luck = random.normal(0, shared, (len(compute), seeds))
    records = []
    for (place, flops), (name, of), seed in itertools.product(enumerate(compute), laws.items(), range(seeds)):
        width = 16 * 2**place
        loss = of(flops) + luck[place, seed] + float(random.normal(0, noise))
        within = {} if called else {"comparison": {"within": ["model.d_model"]}}
        made = record(seed, loss, axes={"activation": name}, settings={"model": {"d_model": width}, **within})
        made.rung = f"d_model={width}" if called else None
        made.ladder = {"changed": {"model.d_model": [16, width]}} if called else None
        made.cost = cost(made, flops_total=int(flops), parameters=1000 * 4**place, tokens=20_000 * 4**place)
        made.annealed = (Anneal(step=50, tokens=10_000, flops=flops / 2, metrics={"val_loss": loss + 0.2}),)
        for key, value in changes.items():
            setattr(made, key, value)
        records.append(made)
    return records


def findings(records: list[Record]) -> LadderFindings:
    runs = runs_of(records)
    (found,) = over_scale(runs, compare(runs))
    return found
