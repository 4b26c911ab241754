"""Many records into one table: one row per run, one column per factor, metric and cost.

A *factor* is whatever differs between the runs besides the seed: an axis (`attention`) where options differ, a
setting (`attention.window`, `optimizer.lr`) where the option is the same and its value is not. A *variant* is a full
choice over the factors, written as Hydra overrides, `attention=lsh,model.d_model=64`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ablab.config import IDENTITY_EXCLUDES
from ablab.errors import UserError
from ablab.results.looks import Look, looks_at
from ablab.results.record import Metric, Record
from ablab.results.store import RECORD_FILE, read_record

# Folders of a sweep for runs that choose a learning rate or measure a speed, and are no part of what is compared.
TUNING_FOLDER, PILOT_FOLDER = "tune", "pilot"
# Choices of these groups say what is learned and where results go, not what is compared.
NOT_FACTORS = frozenset({"task", "logger", "study"})


@dataclass(frozen=True)
class Runs:
    """Records side by side.

    `table` has one row per run, in the order of the plan, with the columns

    * `path` (folder of the run), `study`, `task`, `variant`, `seed`, `status`, `reason`
    * one column per name in `factors`, the option or value as text ("" where the run has no such setting)
    * one column per metric (`val_loss`, ...) and per mechanism metric (`activation/zero_share`, ...), NaN if missing
    * the fields of `Cost` (`parameters`, `flops_total`, `tokens_per_second`, `peak_memory_bytes`, ...)

    `records` are the records themselves, in the same order. `primary` gives each task's primary metric.
    `looks` are those at the study of the runs, as far as they were counted.
    """

    table: pd.DataFrame
    records: list[Record]
    factors: list[str]
    primary: dict[str, Metric]
    looks: tuple[Look, ...] = ()


def find_records(folders: Iterable[Path]) -> Iterator[tuple[Path, Record]]:
    """Every record below `folders`, each with the folder of its run, in the order of their paths, and each once.

    Raises:
        UserError: a folder does not exist, none of them holds a record, or a record cannot be read.
    """
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        for path in sorted(folder.rglob(RECORD_FILE)):
            if {TUNING_FOLDER, PILOT_FOLDER} & set(path.relative_to(folder).parts):
                continue
            if path.resolve() not in found:  # a sweep and one of its runs may both be named
                found.add(path.resolve())
                yield path.parent, read_record(path)
    if not found:
        named = ", ".join(str(folder) for folder in folders)
        raise UserError(f"{named}: no runs here (no {RECORD_FILE} in it or below); give the folder of a run or a sweep")


def collect(folders: Iterable[Path]) -> Runs:
    """The runs below `folders` as one table. Raises `UserError` as `find_records` and `read_looks` do."""
    found = list(find_records(list(folders)))
    found.sort(key=lambda item: (item[1].index is None, item[1].index or 0, str(item[0])))
    return replace(tabulate(found), looks=tuple(looks_at(path for path, _ in found)))


def tabulate(found: list[tuple[Path, Record]]) -> Runs:
    """The records as one table, in the order given."""
    records = [record for _, record in found]
    settings = [_asked(record) for record in records]
    task_labels = _task_labels(records, settings)
    factors = _factors(records, settings, task_labels)
    rows = []
    for (path, record), setting, task in zip(found, settings, task_labels, strict=True):
        choices = {name: _text(record.axes.get(name, setting.get(name, ""))) for name in factors}
        cost = {key: value for key, value in vars(record.cost).items() if key != "flops_uncounted"}
        rows.append(
            {
                "path": str(path),
                "study": record.study,
                "task": task,
                "variant": name_of(record)
                or ",".join(f"{name}={value}" for name, value in choices.items() if value)
                or "default",
                "seed": record.seed,
                "status": record.status,
                "reason": record.reason or "",
                **choices,
                **record.metrics,
                **record.mechanism,
                **cost,
            }
        )
    primary = {task: r.primary for task, r in zip(task_labels, records, strict=True) if r.primary is not None}
    return Runs(table=pd.DataFrame(rows), records=records, factors=factors, primary=primary)


def name_of(record: Record) -> str:
    """The name that a study lists the variant of a run under, "" where it is known by its overrides."""
    names = (record.config.get("design") or {}).get("variants") or {}
    return next((name for name in names if record.variant == name or record.variant.endswith(f",{name}")), "")


def _factors(records: list[Record], settings: list[dict[str, Any]], tasks: list[str]) -> list[str]:
    """Axes whose options differ, then settings whose values differ between runs of the same option.

    What is the same in all runs of a task goes with the task: it may differ from that of another, and is no factor.
    """
    axes = sorted({axis for record in records for axis in record.axes} - NOT_FACTORS)
    values: dict[tuple[str, str | None, str], set[str]] = defaultdict(set)
    for record, setting, task in zip(records, settings, tasks, strict=True):
        for axis in axes:
            values[axis, None, task].add(str(record.axes.get(axis)))
        for key, value in setting.items():
            group = key.split(".")[0]
            if group not in NOT_FACTORS:
                values[key, record.axes.get(group), task].add(_text(value))
    differing = {key for (key, _, _), seen in values.items() if len(seen) > 1}
    return [*(axis for axis in axes if axis in differing), *sorted(differing - set(axes))]


def _task_labels(records: list[Record], settings: list[dict[str, Any]]) -> list[str]:
    """The name of each run's task; where runs of one task differ in its settings, those settings too."""
    names = [record.axes.get("task", "task") for record in records]
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, setting in zip(names, settings, strict=True):
        for key, value in setting.items():
            if key.startswith("task."):
                values[name, key].add(_text(value))
    labels = []
    for name, setting in zip(names, settings, strict=True):
        differing = sorted(key for key in setting if len(values.get((name, key), ())) > 1)
        labels.append(",".join([name, *(f"{key}={_text(setting[key])}" for key in differing)]))
    return labels


def _asked(record: Record) -> dict[str, Any]:
    """The settings of a run, without those that budgets and tuning brought about: they make no variant."""
    settings = _flatten(record.config)
    for changed in (record.budget or {}).get("changed") or ():
        settings.pop(changed, None)
        if changed == "trainer.max_steps":
            settings.pop("schedule.total_steps", None)  # which follows it
    if record.tuning:
        settings.pop("optimizer.lr", None)
    return settings


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in IDENTITY_EXCLUDES or name in ("seed", "axes") or key == "_target_":
            continue
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
