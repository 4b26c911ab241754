"""Values that can be reached, by theory or by the data, beside those that were."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from ablab.analysis import oracle
from ablab.analysis.pairing import counting, value_of, variants
from ablab.report.formatting import MISSING, metric_text, number
from ablab.report.rows import mean_sd, records_of
from ablab.results.collect import Runs


@dataclass(frozen=True)
class Reached:
    """One variant: the primary metric of its runs that ended well, and its own ceiling."""

    variant: str
    values: list[float]  # finite ones, one per seed
    bound: str  # the name of its ceiling: "ceiling", or "window_8" where that is as far as it sees
    ceiling: float | None  # None if it is not known

    @property
    def has_window(self) -> bool:
        """Whether its ceiling is that of its window, and not everybody's."""
        return self.bound != oracle.CEILING


@dataclass(frozen=True)
class Theory:
    """The known values of one task's primary metric, and what its variants reached of them."""

    metric: str
    known: dict[str, float]  # of the task as a whole: chance, ceiling and others
    reached: list[Reached]

    @property
    def windows(self) -> bool:
        """Whether some variant has a ceiling of its own."""
        return any(row.has_window for row in self.reached)


def theory(runs: Runs, task: str, last_k: int = 1) -> Theory | None:
    """None if nothing is known of the task as a whole."""
    primary = runs.primary.get(task)
    if primary is None:
        return None
    records = {variant: records_of(runs, task, variant) for variant in variants(runs)}
    known = oracle.of_task(oracle.known([record for found in records.values() for record in found], primary.name))
    reached = []
    for variant, found in records.items():
        ok = counting(runs, task, variant)
        own = oracle.known(found, primary.name)
        values = [value for record in ok if math.isfinite(value := value_of(record, primary.name, last_k))]
        if found:
            bound = oracle.own_ceiling(ok, own)
            reached.append(Reached(variant, values, bound, own.get(bound, known.get(bound))))
    return Theory(primary.name, known, reached) if known else None


def theory_table(found: Theory) -> pd.DataFrame:
    """Every variant with its ceiling and how far it is from it; then the known values of the task as a whole."""
    every = [*found.known.values(), *(value for row in found.reached for value in (*row.values, row.ceiling or 0.0))]
    fractions = all(0 <= value <= 1 for value in every)
    rows = []
    for row in found.reached:
        mean, sd = mean_sd(row.values)
        rows.append(
            {
                "variant": row.variant,
                found.metric: metric_text(mean, sd),
                "its ceiling": metric_text(row.ceiling) + (f" ({row.bound})" if row.has_window else ""),
                "difference": _difference(mean, row.ceiling, fractions),
            }
        )
    rows += [
        {"variant": f"{name}, by theory", found.metric: metric_text(value), "its ceiling": "", "difference": ""}
        for name, value in found.known.items()
    ]
    return pd.DataFrame(rows)


def _difference(mean: float, ceiling: float | None, fractions: bool) -> str:
    """Measured minus ceiling, of fractions in points of a hundred."""
    if ceiling is None or not math.isfinite(mean):
        return MISSING
    difference = mean - ceiling
    return f"{number(100 * difference, 1, signed=True)} points" if fractions else f"{difference:+.4g}"
