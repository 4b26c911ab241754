"""Differences between runs: their settings, the factors among them, and the tasks that settings tell apart.

A recipe chooses most of a model at once. Where runs have different ones, that is the factor, and what each of them says
of the model is none, unless runs of the same recipe differ in it or somebody asked for it beside the recipe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ablab.config import IDENTITY_EXCLUDES, Node
from ablab.config.axes import called_by
from ablab.config.identity import OFF
from ablab.config.overrides import canonical
from ablab.config.placebo import KEY as PLACEBO
from ablab.results.record import Record

# Choices of these groups say what is learned and where results go, not what is compared.
NOT_FACTORS = frozenset({"task", "logger", "study"})
Settings = dict[str, Any]  # of a run, by dotted key
# Settings of tasks that change speed and memory, and no metric. A study that varies one of them compares these.
OF_SPEED = frozenset({"task.workers", "task.eval_batch_size"})
OF_THE_RECORD = frozenset({"task.target"})  # what is told beside the metrics
# Where data lie, and how they are unpacked: the same data are the same task.
_WHERE = frozenset({"task.path", "task.image_path", "task.audio_path", "task.name", "task.revision", "task.binary"})
# Settings that change something with a value of another one alone.
STEPS, _TOTAL = "trainer.max_steps", ".total_steps"
_ONLY_WITH: dict[str, tuple[str, Any]] = {
    "task.bpe_vocab_size": ("task.tokenizer", "bpe"),
    **dict.fromkeys(("task.max_depth", "task.max_args", "task.min_length"), ("task.path", None)),
}
RECIPE = "recipe"
_OF_A_MODEL = {"model", *(axis.name for axis in called_by("model", "multimodal"))}  # what a recipe speaks of
_NOWHERE: Mapping[str, str] = MappingProxyType({})
_NO_SETTINGS = IDENTITY_EXCLUDES | {"seed", "continue_from", "axes", PLACEBO}  # keys of a config


def factors_of(records: list[Record], settings: list[Settings], tasks: list[str]) -> list[str]:
    """Return the axes whose options differ, then settings whose values differ between runs of the same option.

    What is the same in all runs of a task goes with the task: it may differ from that of another, and is no factor. So
    it is with what a recipe says of the model.
    """
    every = _factors(records, settings, tasks)
    if RECIPE not in every:
        return every
    runs = list(zip(records, settings, tasks, strict=True))
    within: set[str] = set()
    for recipe in {setting.get(RECIPE) for setting in settings}:
        own = [run for run in runs if run[1].get(RECIPE) == recipe]
        within |= {*_factors(*(list(part) for part in zip(*own, strict=True)))}
    asked = {key for record in records for key in _asked_for(record)}
    rest = [key for key in every if key.split(".")[0] not in _OF_A_MODEL or key in asked]
    return list(dict.fromkeys([RECIPE, *rest, *sorted(within)]))


def _factors(records: list[Record], settings: list[Settings], tasks: list[str]) -> list[str]:
    different = list(_different(records, settings, tasks))
    within = {_package(key): key for _, setting, _ in different for key in setting if "@" in key}
    axes = [*sorted({axis for record in records for axis in record.axes} - NOT_FACTORS), *sorted(within.values())]
    groups = sorted({_group(key, within) for _, setting, _ in different for key in setting} - NOT_FACTORS)
    values: dict[tuple[str, str], set[str]] = defaultdict(set)  # (axis, task) -> its options
    alike: dict[tuple[str, str | None, str], list[tuple[Record, Settings]]] = defaultdict(list)
    together: dict[tuple[str, str], list[tuple[Record, Settings]]] = defaultdict(list)  # of one study, by its task
    for record, setting, task in different:
        together[record.study, task].append((record, setting))
        for axis in axes:
            values[axis, task].add(value_of(axis, record, setting))
        for group in groups:
            option = setting.get(within[group]) if group in within else record.axes.get(group)
            alike[group, option, task].append((record, setting))
    differing = {axis for (axis, _), seen in values.items() if len(seen) > 1}
    for (group, _, _), runs in alike.items():
        differing |= _unequal(group, runs, within)
    for runs in together.values():
        differing |= _unequal("task", runs) & OF_SPEED
    return [*(axis for axis in axes if axis in differing), *sorted(differing - set(axes))]


def _package(override: str) -> str:
    """Where the option is put that an override chooses: "attention.core" of "attention@attention.core"."""
    return override.partition("@")[2]


def _group(key: str, within: Mapping[str, str]) -> str:
    """To whose option a setting belongs: that of the innermost place of `within`, else that of an axis."""
    places = [place for place in within if key.startswith(f"{place}.") or key == within[place]]
    return max(places, key=len, default=key.split(".")[0])


def _unequal(group: str, runs: list[tuple[Record, Settings]], within: Mapping[str, str] = _NOWHERE) -> set[str]:
    """The settings of a group that not all of these runs have, or not with the same value.

    A run whose budget or tuning brought a setting about differs from no other in it; nor does one of a version of ablab
    that did not know the setting.

    Args:
        within: the places of options within options, each with the override that chooses it.
    """
    keys: dict[str | None, set[str]] = defaultdict(set)  # by version
    for record, setting in runs:
        keys[record.versions.get("ablab")] |= {key for key in setting if _group(key, within) == group}
    seen: dict[str, set[str | None]] = defaultdict(set)
    for record, setting in runs:
        for key in keys[record.versions.get("ablab")] - _brought_about(record):
            seen[key].add(text_of(setting.get(key, OFF.get(key))) if key in setting or key in OFF else None)
    return {key for key, found in seen.items() if len(found) > 1}


def _tells_apart(key: str, runs: list[tuple[Record, Settings]]) -> bool:
    """Whether a setting of the task in which runs differ makes another task of it: it may change no metric."""
    if key in OF_SPEED | OF_THE_RECORD:
        return False
    if key in _WHERE:
        corpora = {record.corpus.sha256 if record.corpus else None for record, _ in runs}
        return len(corpora) > 1 or None in corpora
    other, value = _ONLY_WITH.get(key, (key, None))
    return other == key or any(setting.get(other) == value for _, setting in runs)


def task_labels(records: list[Record], settings: list[Settings]) -> list[str]:
    """Return the name of each run's task; where runs of one task differ in its settings, those settings too.

    Those count that change what is learned or evaluated on: runs that were loaded by more workers are pairs of others.

    So it is with what all runs declare to be compared within: each of its values makes a task of its own. And so does
    each size of a ladder.
    """
    conditions = conditions_of(records)
    names = [record.axes.get("task", "task") for record in records]
    of_name: dict[str, list[tuple[Record, Settings]]] = defaultdict(list)
    for record, setting, name in _different(records, settings, names):
        of_name[name].append((record, setting))
    labels = {}
    for name, runs in of_name.items():
        differing = sorted(key for key in _unequal("task", runs) if _tells_apart(key, runs))
        values = [{key: value_of(key, *run) for key in conditions} for run in runs]
        varied = [key for key in conditions if len({each[key] for each in values}) > 1]
        climbed = len({record.rung for record, _ in runs}) > 1
        for (record, setting), value in zip(runs, values, strict=True):
            told = [f"{key}={text_of(setting[key])}" for key in differing if key in setting]
            told += [f"{key}={value[key]}" for key in varied if value[key]]
            told += [record.rung] if climbed and record.rung else []
            labels[id(setting), name] = ",".join([name, *told])
    return [labels[id(setting), name] for setting, name in zip(settings, names, strict=True)]


def conditions_of(records: Sequence[Record]) -> list[str]:
    """Return what the study of these records compares within; nothing where they declare different things."""
    declared = {tuple(dict.fromkeys(record.conditions)) for record in records}
    return list(declared.pop()) if len(declared) == 1 else []


def value_of(key: str, record: Record, setting: Settings) -> str:
    """The option of a run on an axis, or its value of a setting, "" where it has neither."""
    return text_of(record.axes.get(key, setting.get(key, "")))


def _different(
    records: list[Record], settings: list[Settings], tasks: list[str]
) -> Iterable[tuple[Record, Settings, str]]:
    """One run for each of the settings on each task: runs that differ in their seed alone share their settings."""
    every = zip(records, settings, tasks, strict=True)
    return {(id(setting), task): (record, setting, task) for record, setting, task in every}.values()


def settings_of(records: Sequence[Record]) -> list[Settings]:
    """Return the settings of each run by dotted key, without those that budgets and tuning brought about.

    Runs of equal settings, as those that differ in their seed alone, share one dictionary.
    """
    known: dict[str, Settings] = {}
    settings = []
    for record in records:
        told = {key: value for key, value in record.config.items() if key not in _NO_SETTINGS}
        found = (record.budget, record.tuning, record.ladder)
        same = repr((told, record.axes, found, _chosen(record)))
        if same not in known:
            known[same] = _asked(record)
        settings.append(known[same])
    return settings


def _asked(record: Record) -> Settings:
    """The settings of a run, without those that budgets and tuning brought about: they make no variant."""
    besides = _brought_about(record)
    asked = _flatten(record.config) | _before_ladder(record)
    return _chosen(record) | {key: value for key, value in asked.items() if key not in besides}


def _chosen(record: Record) -> Settings:
    """What no axis says and was asked for: the recipe, and options within options, as "attention@attention.core"."""
    return {
        key.lstrip("+"): value
        for key, value in _asked_for(record).items()
        if key == RECIPE or ("@" in key and key.lstrip("+").split("@")[0] not in NOT_FACTORS)
    }


def _asked_for(record: Record) -> dict[str, str]:
    """The overrides that a run was asked for by."""
    parts = (str(override).partition("=") for override in record.config.get("overrides") or ())
    return {key: value for key, equals, value in parts if equals}


def _before_ladder(record: Record) -> Settings:
    """What a run of a ladder would have without it, of the settings that follow its size."""
    changed: dict[str, list[Any]] = (record.ladder or {}).get("changed") or {}
    before = {key: values[0] for key, values in changed.items()}
    if STEPS in before:  # which others follow
        after = changed[STEPS][1]
        totals = (key for key, value in _flatten(record.config).items() if key.endswith(_TOTAL) and value == after)
        before |= dict.fromkeys(totals, before[STEPS])
    return before


def _brought_about(record: Record) -> set[str]:
    """The settings that the run's budget or its tuning has set."""
    changed = set((record.budget or {}).get("changed") or ())
    if STEPS in changed:
        changed.add("schedule.total_steps")  # which follows it
    tuned = record.tuning or {}
    return changed | set(tuned.get("settings") or ({"optimizer.lr"} if tuned else ()))


def _flatten(config: Node, prefix: str = "") -> Settings:
    flat: Settings = {}
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
    """Return a value as labels and tables print it, in one way for all its spellings: "null", "true", "0.1", "1"."""
    return value if isinstance(value, str) else canonical(value)
