"""The plan of a study on the disk: every run with its config, and the command that asked for them.

It is what a study is resumed from, on this machine or another, and where a job under another launcher than ours finds
what it is to run: what is edited after a plan was made changes none of its runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ablab.config import ComparisonConfig, Node, RunConfig
from ablab.config.redact import redact, secrets_in
from ablab.config.seeds import SeedsConfig
from ablab.errors import UserError
from ablab.results.run_context import RunContext
from ablab.results.store import PLAN_FILE, parse_json, write_atomically
from ablab.study.events import RunOutline

SCHEMA = 2


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
        "schema": SCHEMA,
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
    data = content_of(study / PLAN_FILE) | {"looks": [asdict(look) for look in looks]}
    write_atomically(study / PLAN_FILE, json.dumps(data) + "\n")


def content_of(path: Path) -> Node:
    """Return what is in the file of a plan, as plain data. Raises UserError where that cannot be read."""
    try:
        return dict(parse_json(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UserError:
    """What a user is told of a plan that is no plan."""
    return UserError(f"{path}: the plan cannot be read ({error}); run the command of the study again")


def _written(run: PlannedRun, study: Path) -> Node:
    place = str(run.folder.relative_to(study))
    return {**asdict(run.info), "folder": place, "context": asdict(run.context), "config": run.config.shown()}
