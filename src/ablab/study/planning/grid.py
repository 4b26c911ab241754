"""The learning rates and seeds that a sweep tunes with, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ablab.errors import UserError
from ablab.study.planning.expand import Run

Config = dict[str, Any]
RATE = "optimizer.lr"


def check_tuning(plan: Sequence[Run], configs: Sequence[Config]) -> None:
    """Raises UserError where `tune` asks for what cannot be done, before anything is written."""
    seeds_of(configs)
    given = any(override.startswith(f"{RATE}=") for run in plan for override in run.overrides)
    if rates_of(configs[0]) and given:
        raise UserError(f"tune.lr chooses {RATE}, which the command gives, too: leave one of them out")


def refuse_for_one_run(config: Config) -> None:
    """Raises UserError where a run by itself asks to be tuned."""
    if config["tune"]["lr"]:
        raise UserError("tune.lr: one run is not tuned; add -m")


def rates_of(config: Config) -> list[float]:
    """The grid, in ascending order; empty where nothing is tuned. Raises UserError if it is none."""
    rates = config["tune"]["lr"]
    if rates is None:
        return []
    rates = rates if isinstance(rates, list) else [rates]
    if len(set(rates)) < 2 or not all(isinstance(rate, int | float) and 0 < rate < math.inf for rate in rates):
        raise UserError(f"tune.lr={rates}: must be a list of at least two different positive numbers")
    return sorted({float(rate) for rate in rates})


def seeds_of(configs: Sequence[Config]) -> list[int]:
    """The tuning seeds. Raises UserError if there are none, or if some of the runs compare one of them."""
    if configs[0]["tune"]["lr"] is None:
        return []
    seeds: list[int] = list(configs[0]["tune"]["seeds"])
    if not seeds:
        raise UserError("tune.seeds: must name at least one seed")
    shared = sorted({config["seed"] for config in configs} & set(seeds))
    if shared:
        raise UserError(
            f"tune.seeds: {', '.join(map(str, shared))} would also be compared on; choose tuning seeds of their own"
        )
    return seeds
