"""Values that are known of a task before anybody trains on it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean

from ablab.analysis.notes import WindowCeiling
from ablab.analysis.pairing import Pairing
from ablab.analysis.study_notes import KnownValues
from ablab.results.collect import Runs
from ablab.results.record import Record

CHANCE, CEILING = "chance", "ceiling"
KEYS_VISITED = "attention/keys_visited"  # by a query on average
_OF_WINDOW = re.compile(r"window_\d+")  # what attention that looks so many tokens back reaches in one layer


def known(records: Sequence[Record], metric: str) -> dict[str, float]:
    """Every known value of `metric` by name, as means over the runs whose primary metric it is.

    The values of random samples (what a window can reach) differ a little from seed to seed.
    """
    given = [record.oracle or {} for record in records if record.primary and record.primary.name == metric]
    found: dict[str, list[float]] = {}
    for each in given:
        for name, value in each.items():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in found.items()}


def of_subsets(values: dict[str, float]) -> dict[str, float]:
    """Those of subsets of the evaluation: "with=image+text"."""
    return {name: value for name, value in values.items() if "=" in name}


def of_task(values: dict[str, float]) -> dict[str, float]:
    """Those that hold for the task as a whole: chance, the ceiling, then others, without windows and subsets."""
    first = [name for name in (CHANCE, CEILING) if name in values]
    others = [name for name in values if name not in first and "=" not in name and not _OF_WINDOW.fullmatch(name)]
    return {name: values[name] for name in (*first, *others)}


def window(record: Record) -> int | None:
    """Tokens that the run's attention looks back; None without a window, or where it sees more than its window.

    Of a window for each layer it is the widest, that of the layer that can recall. A window alone shows a query at most
    so many keys. Attention that visits more on average has other ways to a key, and what a window can reach is not its
    ceiling.
    """
    attention = record.config.get("attention")
    size = attention.get("window") if isinstance(attention, dict) else None
    if isinstance(size, list):
        size = max((each for each in size if isinstance(each, int | float)), default=None)
    if isinstance(size, bool) or not isinstance(size, int | float) or not math.isfinite(size) or size != int(size):
        return None
    return int(size) if not record.mechanism.get(KEYS_VISITED, 0.0) > size else None


def own_ceiling(records: Sequence[Record], values: dict[str, float]) -> str:
    """The name of the ceiling of one variant's runs: their window's where it is among `values`, else `ceiling`."""
    windows = {window(record) for record in records}
    name = f"window_{windows.pop()}" if len(windows) == 1 else CEILING
    return name if name in values else CEILING


def known_values(runs: Runs, task: str, metric: str) -> KnownValues | None:
    """Chance, ceiling and what else the task's oracle gives for `metric`; None without one.

    Of the windows only those are named that some variant has.
    """
    rows = [runs.records[int(row)] for row in runs.table.index[runs.table["task"] == task]]
    values = known(rows, metric)
    if not values:
        return None
    had = {f"window_{size}" for record in rows if (size := window(record))}
    of_windows = {name: value for name, value in values.items() if name in had}
    return KnownValues(
        task=task if len(runs.tasks) > 1 else "",
        metric=metric,
        values=tuple((of_task(values) | of_windows).items()),
        subsets=tuple(of_subsets(values).items()),
    )


def window_ceiling(pairing: Pairing) -> WindowCeiling | None:
    """The ceiling of the variant's window beside the measured mean; None without a window of known ceiling."""
    records = [record for record, _ in pairing.pairs]
    values = known(records, pairing.metric)
    if not records or (name := own_ceiling(records, values)) == CEILING:
        return None
    size = window(records[0])
    assert size is not None  # else its ceiling would be that of all
    return WindowCeiling(size, values[name], fmean(pairing.values))
