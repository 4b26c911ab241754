"""What differs between runs: their settings, the factors among them, and the tasks that settings tell apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ablab.config import IDENTITY_EXCLUDES
from ablab.results.record import Record

# Choices of these groups say what is learned and where results go, not what is compared.
NOT_FACTORS = frozenset({"task", "logger", "study"})
_NO_SETTINGS = IDENTITY_EXCLUDES | {"seed", "axes"}  # keys of a config


def factors_of(records: list[Record], settings: list[dict[str, Any]], tasks: list[str]) -> list[str]:
    """Axes whose options differ, then settings whose values differ between runs of the same option.

    What is the same in all runs of a task goes with the task: it may differ from that of another, and is no factor.
    """
    axes = sorted({axis for record in records for axis in record.axes} - NOT_FACTORS)
    values: dict[tuple[str, str | None, str], set[str]] = defaultdict(set)
    for record, setting, task in _different(records, settings, tasks):
        for axis in axes:
            values[axis, None, task].add(str(record.axes.get(axis)))
        for key, value in setting.items():
            group = key.split(".")[0]
            if group not in NOT_FACTORS:
                values[key, record.axes.get(group), task].add(text_of(value))
    differing = {key for (key, _, _), seen in values.items() if len(seen) > 1}
    return [*(axis for axis in axes if axis in differing), *sorted(differing - set(axes))]


def task_labels(records: list[Record], settings: list[dict[str, Any]]) -> list[str]:
    """The name of each run's task; where runs of one task differ in its settings, those settings too."""
    names = [record.axes.get("task", "task") for record in records]
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for _, setting, name in _different(records, settings, names):
        for key, value in setting.items():
            if key.startswith("task."):
                values[name, key].add(text_of(value))
    labels = {}
    for _, setting, name in _different(records, settings, names):
        differing = sorted(key for key in setting if len(values.get((name, key), ())) > 1)
        labels[id(setting), name] = ",".join([name, *(f"{key}={text_of(setting[key])}" for key in differing)])
    return [labels[id(setting), name] for setting, name in zip(settings, names, strict=True)]


def _different(
    records: list[Record], settings: list[dict[str, Any]], tasks: list[str]
) -> Iterable[tuple[Record, dict[str, Any], str]]:
    """One run for each of the settings on each task: runs that differ in their seed alone share their settings."""
    every = zip(records, settings, tasks, strict=True)
    return {(id(setting), task): (record, setting, task) for record, setting, task in every}.values()


def settings_of(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The settings of each run by dotted key, without those that budgets and tuning brought about.

    Runs of equal settings, as those that differ in their seed alone, share one dictionary.
    """
    known: dict[str, dict[str, Any]] = {}
    settings = []
    for record in records:
        told = {key: value for key, value in record.config.items() if key not in _NO_SETTINGS}
        same = repr((told, record.axes, record.budget, record.tuning))
        if same not in known:
            known[same] = _asked(record)
        settings.append(known[same])
    return settings


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
        if name in _NO_SETTINGS or key == "_target_":
            continue
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def text_of(value: Any) -> str:
    """A value as it is written in an override: "null", "true", "0.1"."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
