"""The runs: how each ended and why, what their configs differ in, their software, code and data, how to repeat each."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ablab.config import Node
from ablab.config.identity import IDENTITY_EXCLUDES
from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.config.schema import FOR_SWEEPS
from ablab.report.context import ReportContext
from ablab.report.html.blocks import Section
from ablab.report.rows import unhealthy
from ablab.results.collect import Runs
from ablab.results.record import Record

NOT_RUN = "not run"
_NAMED = 8  # variants that are named of a longer list


@dataclass(frozen=True)
class Health:
    """The grid of variants and seeds, the reasons, and where those stood that failed."""

    seeds: list[int]
    rows: list[tuple[str, str, list[str]]]  # (task, variant, status per seed)
    reasons: pd.DataFrame
    tracebacks: list[tuple[str, str]]  # (of which run, text): each text once
    not_run: str = NOT_RUN


def run_health(context: ReportContext) -> Section:
    return Section("health", "Run health", template="health.html.j2", data=health(context))


def origin(context: ReportContext) -> Section:
    return Section("provenance", "Provenance", template="provenance.html.j2", data=provenance(context))


def health(context: ReportContext) -> Health:
    """A seed that was run more than once shows every end, in order."""
    table = context.runs.every.table
    seeds = sorted({record.seed for record in context.runs.every.records})
    ends = table.groupby(["task", "variant", "seed"], sort=False)["status"].agg(", ".join).to_dict()
    known = dict.fromkeys(zip(table["task"], table["variant"], strict=True))
    rows = [
        (str(task), str(variant), [ends.get((task, variant, seed), NOT_RUN) for seed in seeds])
        for task, variant in known
    ]
    unwell = unhealthy(context.run_rows)
    return Health(seeds, rows, unwell if len(context.tasks) > 1 else unwell.drop(columns="task"), _tracebacks(context))


def _tracebacks(context: ReportContext) -> list[tuple[str, str]]:
    runs: dict[str, list[str]] = {}
    every = context.runs.every
    for variant, record in zip(every.table["variant"], every.records, strict=True):
        if record.traceback:
            runs.setdefault(record.traceback, []).append(f"{variant}, seed {record.seed}")
    return [(f"{first}{f' and {len(more)} more' if more else ''}", text) for text, (first, *more) in runs.items()]


_NO_SETTINGS = frozenset(
    {"seed", "axes", *IDENTITY_EXCLUDES}
)  # keys of a config that make no difference between variants


@dataclass(frozen=True)
class Provenance:
    """Everything that a reader needs to check the runs, and to repeat them."""

    factors: pd.DataFrame
    settings: pd.DataFrame
    groups: pd.DataFrame
    origins: list[tuple[str, str]]
    commands: list[str]


def provenance(context: ReportContext) -> Provenance:
    runs = context.runs
    commands = [f"{command(record)}  # {record.fingerprint[:12]}" for record in runs.every.records]
    return Provenance(varied(runs), differing_settings(runs), parameter_groups(runs), origins(runs), commands)


def varied(runs: Runs) -> pd.DataFrame:
    """One row per variant, one column per factor: what sets the variants apart."""
    columns = ["variant", *runs.factors]
    return runs.table[columns].drop_duplicates().reset_index(drop=True).astype(str)


def differing_settings(runs: Runs) -> pd.DataFrame:
    """One row per value of each key of the resolved configs that is not the same in all runs, and whose value it is."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    configs: dict[str, dict[str, None]] = {}  # every variant and task once: seeds share their settings
    for record, variant, task in zip(runs.records, runs.table["variant"], runs.table["task"], strict=True):
        whose = f"{variant} on {task}" if len(runs.primary) > 1 else str(variant)
        if whose in configs:
            continue
        configs[whose] = {}
        for key, value in _leaves(record.config):
            found.setdefault(key, {}).setdefault(value, {})[whose] = None
    differing = {
        key: values
        for key, values in sorted(found.items())
        if len(next(iter(values.values()))) < len(configs)  # the others have another value, or none
    }
    rows = [
        {"key": key, "value": value, "variants": _whose(list(whose), len(configs))}
        for key, values in differing.items()
        for value, whose in values.items()
    ]
    return pd.DataFrame(rows)


def _whose(names: list[str], of: int) -> str:
    """Names of variants; "all others (112)" where they are most of many, and of other long lists the beginning."""
    if len(names) > max(_NAMED, of / 2):
        return f"all others ({len(names)})"
    more = len(names) - _NAMED
    return "; ".join(names) if more < 2 else f"{'; '.join(names[:_NAMED])} and {more} more"


def origins(runs: Runs) -> list[tuple[str, str]]:
    """(what, which) of software, code, data and machine; where runs differ, each value with its number of runs."""
    names = sorted({name for record in runs.records for name in record.versions})
    rows = [(name, _counted([record.versions.get(name) for record in runs.records])) for name in names]
    uncounted = sorted({name for record in runs.records for name in record.cost.flops_uncounted})
    if uncounted:
        rows.append(("FLOPs leave out", f"operators without a formula: {', '.join(uncounted)}"))
    rows.append(("git commit", _counted([_commit(record) for record in runs.records])))
    rows.append(("corpus", _counted([_corpus(record) for record in runs.records])))
    splits = dict.fromkeys(split for record in runs.records for split in record.evaluated or {})
    rows += [(f"samples evaluated, {split}", _counted(_evaluated(runs, split))) for split in splits]
    fields = sorted({name for record in runs.records for name in record.machine})
    rows += [(name, _counted([_text(record.machine.get(name)) for record in runs.records])) for name in fields]
    return rows


def parameter_groups(runs: Runs) -> pd.DataFrame:
    """One row per group of parameters: its size and what the optimizer was told of it.

    Variants with the same groups share their rows. Empty if no run recorded its groups.
    """
    found: dict[str, tuple[list[Node], list[str]]] = {}
    for record, variant in zip(runs.records, runs.table["variant"], strict=True):
        if record.parameter_groups:
            _, names = found.setdefault(repr(record.parameter_groups), (record.parameter_groups, []))
            if variant not in names:
                names.append(str(variant))
    of = sum(len(names) for _, names in found.values())
    return pd.DataFrame([_group_row(_whose(names, of), group) for groups, names in found.values() for group in groups])


def command(record: Record) -> str:
    """The shell command that trains this run again, in a folder of its own.

    It lacks what one run by itself refuses or takes no notice of. Where a file asked for the study, as `study=NAME`, it
    switches off what that makes of it: several runs, at several sizes, at settings and budgets that are found first.
    """
    asked = [part for part in record.config.get("overrides") or BETWEEN_OVERRIDES.split(record.variant) if part]
    kept = [part for part in asked if _top(part) not in _OF_SWEEPS]
    if any(_top(part) in _FILES for part in kept):
        given = {_top(part) for part in asked} | _set_in(record.config)
        kept += ["hydra.mode=RUN", *(word for key, word in _OFF.items() if key in given)]
        kept.append(f"name=again/{record.fingerprint[:12]}")  # that of the file is the folder of the study
    return shlex.join(["ablab", *kept, f"seed={record.seed}"])


_OF_SWEEPS = frozenset({"seed", "name", "hydra", "comparison", "budget", "tune", *FOR_SWEEPS})
_FILES = ("study", "experiment")  # groups whose options may ask for a whole study
_OFF = {"ladder": "ladder=null", "tune": "tune.trials=0", "budget": "budget.match=null"}
_OF_TUNING = frozenset({"seeds", "max_steps", "extend", "trials"})  # its keys that are no grid


def _top(override: str) -> str:
    return re.split(r"[.=/]", override.lstrip("+~"))[0]


def _set_in(config: Node) -> set[str]:
    """Which of `_OFF` the study of the run had."""
    ladder, tune, budget = (config.get(key) or {} for key in _OFF)
    found = {"ladder": ladder.get("sizes"), "budget": budget.get("match")}
    found["tune"] = any(grid for key, grid in tune.items() if key not in _OF_TUNING)
    return {key for key, value in found.items() if value}


def question(runs: Runs) -> str | None:
    """The question that the study asks, if its config states one."""
    asked = [record.config.get("question") for record in runs.records]
    return next((text for text in asked if isinstance(text, str) and text), None)


def _leaves(config: Node, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of every setting."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in _NO_SETTINGS:
            continue
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, "null" if value is None else str(value)


def _group_row(variants: str, group: Node) -> dict[str, str]:
    size = group.get("parameters")
    return {
        "group": str(group.get("name")),
        "optimizer": str(group.get("optimizer")),
        "tensors": str(group.get("tensors")),
        "parameters": f"{size:,}" if isinstance(size, int) else str(size),
        "learning rate": str(group.get("lr")),
        "weight decay": str(group.get("weight_decay")),
        "variants": variants,
    }


def _commit(record: Record) -> str | None:
    if not record.git:
        return None
    return f"{record.git.get('commit')}{' with local changes' if record.git.get('dirty') else ''}"


def _corpus(record: Record) -> str | None:
    corpus = record.corpus
    return (
        f"{corpus.name}, {corpus.files} files, {corpus.size_bytes:,} bytes, sha256 {corpus.sha256}" if corpus else None
    )


def _evaluated(runs: Runs, split: str) -> list[str | None]:
    """The samples of each run that came to an evaluation."""
    return [f"{record.evaluated[split]:,}" for record in runs.records if split in (record.evaluated or {})]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _counted(values: list[str | None]) -> str:
    counts = Counter(value or "unknown" for value in values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({count} runs)" for value, count in counts.items())
