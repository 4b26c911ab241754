"""The plan of a study on the disk: every run with its frozen config, and the command that asked for them.

It is what a study is resumed from, on this machine or another, and where a job under another launcher than ours finds
what it is to run: what is edited after a plan was made changes none of its runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ablab.config import ComparisonConfig
from ablab.errors import UserError
from ablab.results.kept import read_kept, why_no_folder
from ablab.results.record import RunContext
from ablab.results.store import PLAN_FILE, write_atomically
from ablab.study.events import RunOutline

_SCHEMA = 2
_OLDEST = 1  # kept "terms" of the comparison, and what was found out in the config of each run


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of a plan: what it is, and where it lies."""

    info: RunOutline
    config: dict[str, Any]  # frozen
    folder: Path
    context: RunContext = field(default_factory=RunContext)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a multirun is to do."""

    command: list[str]  # its command line, without the name of the program
    working_folder: str  # that relative paths in configs are relative to
    python_path: list[str]  # where options of the user's are looked for
    comparison: ComparisonConfig  # that the study ends with
    runs: list[PlannedRun] | None  # None: learning rates or speeds are still being found out


def write_plan(study: Path, comparison: ComparisonConfig, runs: Sequence[PlannedRun] | None) -> None:
    """Keep what this process's command asked for in the folder of the study."""
    data = {
        "schema": _SCHEMA,
        "command": sys.argv[1:],
        "working_folder": str(Path.cwd()),
        "python_path": [folder for folder in sys.path if folder],
        "comparison": asdict(comparison),
        "runs": None if runs is None else [_written(run, study) for run in runs],
    }
    write_atomically(study / PLAN_FILE, json.dumps(data) + "\n")


def read_plan(study: Path) -> Plan:
    """The plan in the folder of a study.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = study / PLAN_FILE
    if not study.is_dir():
        raise UserError(why_no_folder(study))
    if not path.is_file():
        raise UserError(f"{study}: holds no study (no {PLAN_FILE} in it); give the folder of a sweep")
    try:
        return _as_plan(json.loads(path.read_text(encoding="utf-8")), study)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the command of the study again") from error


def find_plan(place: Path) -> Plan | None:
    """Return the plan of the study in a folder or a file of kept results; None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    if os.path.isfile(place):
        data = read_kept(place).plan
        try:
            return None if data is None else _as_plan(data, place)
        except ValueError as error:
            raise UserError(f"{place}: its plan cannot be read ({error})") from error
    return read_plan(place) if (place / PLAN_FILE).is_file() else None


def _as_plan(data: Any, study: Path) -> Plan:
    """The plan in `data`, of the study in a folder. Raises ValueError where it is none."""
    try:
        if not _OLDEST <= data["schema"] <= _SCHEMA:
            raise ValueError("of another version of ablab")
        runs = data["runs"]
        return Plan(
            command=[str(word) for word in data["command"]],
            working_folder=str(data["working_folder"]),
            python_path=[str(folder) for folder in data["python_path"]],
            comparison=ComparisonConfig(**data["comparison" if "comparison" in data else "terms"]),
            runs=None if runs is None else [_read(run, study) for run in runs],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error


def return_to(plan: Plan) -> None:
    """Work where the command of the plan was given, as far as this machine has that place."""
    if Path(plan.working_folder).is_dir():
        os.chdir(plan.working_folder)
    sys.path += [folder for folder in plan.python_path if folder not in sys.path]


def find_run(study: Path, folder: Path) -> PlannedRun | None:
    """The run of the study's plan that lies in `folder`; None where there is no plan, or not such a run in it."""
    if not (study / PLAN_FILE).is_file():
        return None
    runs = read_plan(study).runs or []
    return next((run for run in runs if run.folder.resolve() == folder.resolve()), None)


def _written(run: PlannedRun, study: Path) -> dict[str, Any]:
    place = str(run.folder.relative_to(study))
    return {**asdict(run.info), "folder": place, "context": asdict(run.context), "config": run.config}


def _read(data: dict[str, Any], study: Path) -> PlannedRun:
    names = RunOutline.__dataclass_fields__
    info = RunOutline(**{name: data[name] for name in names})
    config = data["config"]
    context = RunContext.from_dict(data["context"] if "context" in data else _context_in(config))
    return PlannedRun(info=info, config=config, folder=study / data["folder"], context=context)


def _context_in(config: dict[str, Any]) -> dict[str, Any]:
    """The context of a run, taken out of its config, where the first schema kept it."""
    budget = {name: config["budget"].pop(name, None) for name in ("changed", "value", "of")}
    tuning = {name: config["tune"].pop(name, None) for name in ("chosen", "tried")}
    config["comparison"] = asdict(ComparisonConfig(baseline=config.pop("baseline", None)))
    return {
        "variant": config.pop("variant", None),
        "index": config.pop("index", None),
        "budget": budget if budget["changed"] is not None else None,
        "tuning": tuning if tuning["chosen"] else None,
    }
