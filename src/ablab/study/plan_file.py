"""The plan of a study on the disk: every run with its config, and the command that asked for them.

It is what a study is resumed from, on this machine or another, and where a job under another launcher than ours finds
what it is to run: what is edited after a plan was made changes none of its runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ablab.config import ComparisonConfig, Node, RunConfig
from ablab.config.redact import filled_in, redact, secrets_in
from ablab.config.seeds import SeedsConfig
from ablab.config.trust import admit
from ablab.errors import UserError, printable
from ablab.results.kept import read_kept, why_no_folder
from ablab.results.run_context import RunContext
from ablab.results.shape import misshapen
from ablab.results.store import PLAN_FILE, below, link_outside, parse_json, write_atomically
from ablab.study.events import RunOutline

_SCHEMA = 2
_OLDEST = 1  # kept "terms" of the comparison, and what was found out in the config of each run


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of a plan: what it is, and where it lies."""

    info: RunOutline
    config: RunConfig  # frozen
    folder: Path
    context: RunContext = field(default_factory=RunContext)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A variant on a task that gets no further seeds, and why: a word of `ablab.config.seeds`, or another."""

    task: str  # both as in `RunOutline`
    variant: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at a study that makes its seeds in blocks: whose seeds ended with it."""

    seeds: int
    ended: list[Ended]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a multirun is to do."""

    command: list[str]  # its command line, without the name of the program
    working_folder: str  # that relative paths in configs are relative to
    python_path: list[str]  # where options of the user's are looked for
    comparison: ComparisonConfig  # that the study ends with
    runs: list[PlannedRun] | None  # None: learning rates or speeds are still being found out
    seeds: SeedsConfig | None = None  # None: all runs are made; else these in blocks, until all is decided
    looks: list[Look] = field(default_factory=list)  # that were made, as records say; who goes on looks anew


def write_plan(
    study: Path, comparison: ComparisonConfig, runs: Sequence[PlannedRun] | None, seeds: SeedsConfig | None = None
) -> None:
    """Keep what this process's command asked for in the folder of the study."""
    data = {
        "schema": _SCHEMA,
        "command": redact(sys.argv[1:], frozenset().union(*(secrets_in(run.config.to_dict()) for run in runs or ()))),
        "working_folder": str(Path.cwd()),
        "python_path": [folder for folder in sys.path if folder],
        "comparison": asdict(comparison),
        "runs": None if runs is None else [_written(run, study) for run in runs],
        "seeds": None if seeds is None else asdict(seeds),
        "looks": [],
    }
    write_atomically(study / PLAN_FILE, json.dumps(data) + "\n")


def write_looks(study: Path, looks: Sequence[Look]) -> None:
    """Keep in the plan whose seeds ended when. Raises UserError where there is no plan that can be read."""
    data = _content(study / PLAN_FILE) | {"looks": [asdict(look) for look in looks]}
    write_atomically(study / PLAN_FILE, json.dumps(data) + "\n")


def read_plan(study: Path, trust: bool = False) -> Plan:
    """The plan in the folder of a study, which may be a stranger's.

    Args:
        trust: options of its runs that are not ablab's may run.

    Raises:
        UserError: there is none, or it cannot be read, or it names options of somebody's and `trust` is not given.
    """
    path = study / PLAN_FILE
    if not study.is_dir():
        raise UserError(why_no_folder(study))
    if not path.is_file():
        raise UserError(f"{study}: holds no study (no {PLAN_FILE} in it); give the folder of a sweep")
    plan = _as_plan(_content(path), path, study)
    admit((run.config.to_dict() for run in plan.runs or ()), path, trust)
    if not trust and (link := link_outside(study)) is not None:
        raise UserError(f"{link}: leads out of the study, where nothing is written; if it is yours, add --trust")
    return _filled_in(plan)


def _filled_in(plan: Plan) -> Plan:
    """The plan with the secrets of its runs, which its file has not. Raises UserError where they are nowhere else."""
    runs = [replace(run, config=replace(run.config, options=filled_in(run.config.options))) for run in plan.runs or ()]
    return plan if plan.runs is None else replace(plan, runs=runs)


def find_plan(place: Path) -> Plan | None:
    """Return the plan in a folder or a file of kept results, without its runs, which may be many; None if it has none.

    Raises:
        UserError: it cannot be read.
    """
    if os.path.isfile(place):
        data, path = read_kept(place).plan, place
    else:
        path = place / PLAN_FILE
        data = _content(path) if path.is_file() else None
    return None if data is None else _as_plan(data | {"runs": None}, path, place)


def folders_of(study: Path) -> list[Path]:
    """The folders of the runs in the plan of a study; none where there is no plan, or it is not made yet.

    Without those of seeds that a look at the others has made needless.

    Raises:
        UserError: it cannot be read.
    """
    path = study / PLAN_FILE
    try:
        data = _content(path) if path.is_file() else {}
        runs = data.get("runs") or []
        if not data.get("looks"):
            return [below(study, str(run["folder"])) for run in runs]
        seeds = sorted({run["seed"] for run in runs})
        most = {
            (each["task"], each["variant"]): look["seeds"] for look in data.get("looks", []) for each in look["ended"]
        }
        needed = [run for run in runs if run["seed"] in seeds[: most.get((run["task"], run["variant"]), len(seeds))]]
        return [below(study, str(run["folder"])) for run in needed]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error


def _content(path: Path) -> Node:
    try:
        return dict(parse_json(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: the plan cannot be read ({error}); run the command of the study again")


def _as_plan(data: Node, path: Path, study: Path) -> Plan:
    try:
        if not _OLDEST <= data["schema"] <= _SCHEMA:
            raise ValueError("of another version of ablab")
        runs = data["runs"]
        if runs == []:
            raise ValueError("it has no runs")
        declared = dict(data["comparison" if "comparison" in data else "terms"])
        comparison = ComparisonConfig(**{name: value for name, value in declared.items() if value is not None})
        if wrong := misshapen(comparison):
            raise ValueError(wrong)
        return Plan(
            command=[str(word) for word in data["command"]],
            working_folder=str(data["working_folder"]),
            python_path=[str(folder) for folder in data["python_path"]],
            comparison=comparison,
            runs=None if runs is None else [_read(run, study) for run in runs],
            seeds=_seeds(data.get("seeds")),
            looks=[_look(each) for each in data.get("looks", [])],
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _seeds(data: Node | None) -> SeedsConfig | None:
    seeds = None if data is None else SeedsConfig.of(data)
    if seeds is not None and (wrong := misshapen(seeds)):
        raise ValueError(f"seeds.{wrong}")
    return seeds


def _look(data: Node) -> Look:
    ended = [
        Ended(**{name: printable(str(each[name])) for name in ("task", "variant", "why")}) for each in data["ended"]
    ]
    return Look(seeds=int(data["seeds"]), ended=ended)


def return_to(plan: Plan, trust: bool = False) -> None:
    """Work where the command of the plan was given, as far as this machine has that place.

    Args:
        trust: look for modules where that command did, too.
    """
    if Path(plan.working_folder).is_dir():
        os.chdir(plan.working_folder)
    if trust:
        sys.path += [folder for folder in plan.python_path if folder not in sys.path]


def find_run(study: Path, folder: Path) -> PlannedRun | None:
    """The run of the study's plan that lies in `folder`; None where there is no plan, or not such a run in it."""
    if not (study / PLAN_FILE).is_file():
        return None
    path = study / PLAN_FILE  # which this very command wrote
    runs = _filled_in(_as_plan(_content(path), path, study)).runs or []
    return next((run for run in runs if run.folder.resolve() == folder.resolve()), None)


def _written(run: PlannedRun, study: Path) -> Node:
    place = str(run.folder.relative_to(study))
    return {**asdict(run.info), "folder": place, "context": asdict(run.context), "config": run.config.shown()}


def _read(data: Node, study: Path) -> PlannedRun:
    names = RunOutline.__dataclass_fields__
    told: Node = {name: data[name] for name in names}
    shown: Node = {name: printable(each) if isinstance(each, str) else each for name, each in told.items()}
    info = RunOutline(**shown)
    context = RunContext.from_dict(data["context"] if "context" in data else _context_in(data["config"]))
    folder = below(study, str(data["folder"]))
    config = RunConfig.from_dict(data["config"])
    return PlannedRun(info=info, config=config, folder=folder, context=context)


def _context_in(config: Node) -> Node:
    """The context of a run, where the first schema kept it."""
    budget = {name: config["budget"].get(name) for name in ("changed", "value", "of")}
    tuning = {name: config["tune"].get(name) for name in ("chosen", "tried")}
    return {
        "variant": config.get("variant"),
        "index": config.get("index"),
        "budget": budget if budget["changed"] is not None else None,
        "tuning": tuning if tuning["chosen"] else None,
    }
