"""The plan of a study as it is read: the whole of it, without its runs, or one run alone."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from ablab.config import ComparisonConfig, Node, RunConfig
from ablab.config.redact import filled_in
from ablab.config.seeds import SeedsConfig
from ablab.config.trust import admit
from ablab.errors import UserError, printable
from ablab.results.kept import read_kept, why_no_folder
from ablab.results.run_context import RunContext
from ablab.results.shape import misshapen
from ablab.results.store import PLAN_FILE, below, link_outside
from ablab.study.events import RunOutline
from ablab.study.plan_file import SCHEMA, Ended, Look, Plan, PlannedRun, content_of, unreadable

_OLDEST = 1  # kept "terms" of the comparison, and what was found out in the config of each run


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
    plan = _as_plan(content_of(path), path, study)
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
        data = content_of(path) if path.is_file() else None
    return None if data is None else _as_plan(data | {"runs": None}, path, place)


def folders_of(study: Path) -> list[Path]:
    """The folders of the runs in the plan of a study; none where there is no plan, or it is not made yet.

    Without those of seeds that a look at the others has made needless.

    Raises:
        UserError: it cannot be read.
    """
    path = study / PLAN_FILE
    try:
        data = content_of(path) if path.is_file() else {}
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
        raise unreadable(path, error) from error


def _as_plan(data: Node, path: Path, study: Path) -> Plan:
    try:
        if not _OLDEST <= data["schema"] <= SCHEMA:
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
        raise unreadable(path, error) from error


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
    if plan.working_folder and Path(plan.working_folder).is_dir():  # kept results do not say where that was
        os.chdir(plan.working_folder)
    if trust:
        sys.path += [folder for folder in plan.python_path if folder not in sys.path]


def find_run(study: Path, folder: Path) -> PlannedRun | None:
    """The run of the study's plan that lies in `folder`; None where there is no plan, or not such a run in it."""
    if not (study / PLAN_FILE).is_file():
        return None
    path = study / PLAN_FILE  # which this very command wrote
    runs = _filled_in(_as_plan(content_of(path), path, study)).runs or []
    return next((run for run in runs if run.folder.resolve() == folder.resolve()), None)


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
