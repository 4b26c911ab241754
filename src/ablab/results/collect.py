"""Many records into one table: one row per run, one column per factor, metric and cost.

A *factor* is whatever differs between the runs besides the seed: an axis (`attention`) where options differ, a
setting (`attention.window`, `optimizer.lr`) where the option is the same and its value is not. A *variant* is a full
choice over the factors, written as Hydra overrides, `attention=lsh,model.d_model=64`.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ablab.config.placebo import KEY
from ablab.results.factors import factors_of, settings_of, task_labels, value_of
from ablab.results.find import find_records
from ablab.results.interim import (
    InterimAnalysis,
    as_interim_analyses,
    interim_analyses_in,
    interim_analyses_of,
    united,
)
from ablab.results.kept import read_kept
from ablab.results.names import name_of
from ablab.results.record import Metric, Record


@dataclass(frozen=True)
class Runs:
    """Records side by side.

    `table` has one row per run, in the order of the plan, with the columns

    * `path` (folder of the run), `study`, `task`, `variant`, `seed`, `status`, `reason`
    * one column per name in `factors`, the option or value as text ("" where the run has no such setting)
    * one column per metric (`val_loss`, ...), also of evaluations elsewhere (`val_loss@task.seq_len=1024`), and per
      mechanism metric (`activation/zero_share`, ...), NaN if missing
    * the fields of `Cost` (`parameters`, `flops_total`, `tokens_per_second`, `peak_memory_bytes`, ...)

    `records` are the records themselves, in the same order. `primary` gives each task's primary metric.
    `interim_analyses` are those of the studies of the runs, as far as they were counted, united.

    Placebos are not among them: whatever is concluded of variants is concluded without. `whole` has them, too, each as
    a variant of its own beside that whose settings it has; None where there are none.
    """

    table: pd.DataFrame
    records: list[Record]
    factors: list[str]
    primary: dict[str, Metric]
    interim_analyses: tuple[InterimAnalysis, ...] = ()
    whole: Runs | None = None

    @property
    def every(self) -> Runs:
        """These runs and the placebos among them, in the order of the plan."""
        return self.whole or self

    def at(self, places: Sequence[int]) -> Runs:
        """Return the runs in some places; factors, tasks and variants keep the names that they have among all runs.

        The placebos on their tasks stay.
        """
        table = self.table.iloc[list(places)].reset_index(drop=True)
        picked = replace(self, table=table, records=[self.records[place] for place in places])
        if self.whole is None:
            return picked
        paths, tasks = set(picked.paths), set(picked.tasks)
        rows = zip(self.whole.paths, self.whole.table["task"].tolist(), self.whole.records, strict=True)
        kept = [
            place
            for place, (path, task, record) in enumerate(rows)
            if (task in tasks if record.placebo else path in paths)
        ]
        return replace(picked, whole=self.whole.at(kept))

    @cached_property
    def paths(self) -> list[str]:
        """The folder of each run, in the order of `records`."""
        return [str(path) for path in self.table["path"].tolist()]

    @cached_property
    def places(self) -> dict[tuple[str, str], list[int]]:
        """(task, variant) -> where its runs are in `records`; the keys in the order of the plan."""
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for place, key in enumerate(zip(self.table["task"].tolist(), self.table["variant"].tolist(), strict=True)):
            found[key].append(place)
        return dict(found)

    @cached_property
    def tasks(self) -> list[str]:
        """In the order of the plan."""
        return list(dict.fromkeys(task for task, _ in self.places))

    @cached_property
    def variants(self) -> list[str]:
        """In the order of the plan."""
        return list(dict.fromkeys(variant for _, variant in self.places))

    @cached_property
    def choices(self) -> dict[str, dict[str, str]]:
        """Variant -> factor -> option or value, "" where it has no such setting."""
        first = {variant: places[0] for (_, variant), places in reversed(self.places.items())}
        rows = self.table[self.factors].astype(str).to_dict("records")
        return {
            variant: {str(name): str(value) for name, value in rows[first[variant]].items()}
            for variant in self.variants
        }

    @cached_property
    def options(self) -> dict[str, list[str]]:
        """Factor -> its options or values, in the order of the plan, "" left out."""
        chosen = self.choices.values()
        return {name: list(dict.fromkeys(each[name] for each in chosen if each[name])) for name in self.factors}


def collect(places: Iterable[Path]) -> Runs:
    """Return the runs of `places` as one table. Raises `UserError` as `find_records` and `read_interim_analyses` do."""
    places = list(places)
    found = list(find_records(places))
    found.sort(key=lambda item: (item[1].index is None, item[1].index or 0, str(item[0])))
    return replace(tabulate(found), interim_analyses=tuple(_interim_analyses(places, found)))


def _interim_analyses(places: Collection[Path], found: Collection[tuple[Path, Record]]) -> list[InterimAnalysis]:
    """Those of the studies of these runs, by their folders, their kept files and their records."""
    files = dict.fromkeys(place for place in places if os.path.isfile(place))
    kept = [look for file in files for look in as_interim_analyses(read_kept(file).interim_analyses, file)]
    lying = interim_analyses_of(run for run, _ in found if files.keys().isdisjoint((run, *run.parents)))
    return united([*lying, *kept, *interim_analyses_in(found)])


def tabulate(found: list[tuple[Path, Record]]) -> Runs:
    """Return the records as one table, in the order given."""
    records = [record for _, record in found]
    settings = settings_of(records)
    tasks = task_labels(records, settings)
    factors = factors_of(records, settings, tasks)
    choices = [
        {name: value_of(name, record, setting) for name in factors}
        for record, setting in zip(records, settings, strict=True)
    ]
    variants = _variants(records, choices)
    columns: dict[str, list[Any]] = {
        "path": [str(path) for path, _ in found],
        "study": [record.study for record in records],
        "task": tasks,
        "variant": variants,
        "seed": [record.seed for record in records],
        "status": [record.status for record in records],
        "reason": [record.reason or "" for record in records],
        **_side_by_side(choices),
        **_side_by_side([record.measured for record in records]),
        **_side_by_side([record.mechanism for record in records]),
        **_side_by_side([vars(record.cost) for record in records], besides={"flops_uncounted"}),
    }
    primary = {task: r.primary for task, r in zip(tasks, records, strict=True) if r.primary is not None}
    whole = Runs(table=pd.DataFrame(columns), records=records, factors=factors, primary=primary)
    candidates = [place for place, record in enumerate(records) if not record.placebo]
    return replace(whole.at(candidates), whole=whole) if 0 < len(candidates) < len(records) else whole


def _variants(records: Sequence[Record], choices: Sequence[Mapping[str, str]]) -> list[str]:
    """The name of each run's variant. A placebo is called after the variant whose settings it has."""
    own = [
        name_of(record) or ",".join(f"{key}={value}" for key, value in chosen.items() if value)
        for record, chosen in zip(records, choices, strict=True)
    ]
    of_settings = {
        tuple(chosen.values()): name
        for record, chosen, name in zip(records, choices, own, strict=True)
        if not record.placebo
    }
    names = []
    for record, chosen, name in zip(records, choices, own, strict=True):
        base = of_settings.get(tuple(chosen.values()), name) if record.placebo else name
        marks = [f"{KEY}={record.placebo}"] if record.placebo else []
        names.append(",".join(filter(None, [base, *marks])) or "default")
    return names


def _side_by_side(rows: Sequence[Mapping[str, Any]], besides: Collection[str] = ()) -> dict[str, list[Any]]:
    """Key -> its value in each row, None where a row has none."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in besides)
    return {key: [row.get(key) for row in rows] for key in keys}
