"""A run before its first step: its folder made ready, and its record, which says failed until something else is so."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ablab.config import RunConfig, fingerprint
from ablab.config.overrides import alike
from ablab.config.redact import redact_override
from ablab.config.yaml_text import to_yaml
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.run_context import BudgetReport, RunContext
from ablab.results.run_folder import DAMAGED_FOLDER, check_ours, clear, read_config, set_aside
from ablab.results.store import (
    CONFIG_FILE,
    METRICS_FILE,
    RECORD_FILE,
    read_record,
    remove,
    remove_orphans,
    write_atomically,
)
from ablab.training.failures import forget_failures
from ablab.training.provenance import git_state, versions
from ablab.training.stacks import forget_stacks


def prepare_folder(config: RunConfig, folder: Path) -> None:
    """Make `folder` ready for the run. Done once, before any process of the run.

    What an earlier attempt at this very run left is kept, so that it can go on; what another run left is removed. What
    cannot be told, since the config is damaged, is moved aside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_ours(folder)
    try:
        earlier = read_config(folder) if (folder / CONFIG_FILE).exists() else None
    except UserError as error:
        aside = set_aside(folder)
        write_atomically(aside / _OF_RUN, fingerprint(config))
        damage = str(error).removeprefix(f"{folder}/")
        print(f"{folder}: begins anew, since {damage}; what was there lies in {aside.name}", file=sys.stderr)
    else:
        if earlier is None or not _goes_on(config, earlier, folder):
            clear(folder)
    remove(folder / RECORD_FILE)
    forget_failures(folder)
    forget_stacks(folder)
    remove_orphans(folder, (CONFIG_FILE, METRICS_FILE, RECORD_FILE))
    write_atomically(folder / CONFIG_FILE, to_yaml(config.shown()))


def _goes_on(config: RunConfig, earlier: RunConfig, folder: Path) -> bool:
    """Whether the attempt made in `folder` was at the run of `config`, and did not come to an end of its own."""
    same = fingerprint(earlier) == fingerprint(config)
    with contextlib.suppress(UserError):
        return same and read_record(folder / RECORD_FILE).status not in ("ok", "diverged")
    return same


def new_record(config: RunConfig, context: RunContext | None = None) -> Record:
    """The record of a run that has not done anything yet: it has failed, until it says otherwise."""
    context = context or RunContext()
    return Record(
        status="failed",
        reason="the process ended without writing a record",
        cause="killed",
        fingerprint=fingerprint(config),
        study=config.name,
        variant=context.variant or variant_of(config),
        index=context.index,
        seed=config.seed,
        axes=config.axes,
        config=config.shown(),
        budget=asdict(config.budget) | asdict(context.budget or BudgetReport()) if config.budget.match else None,
        tuning=config.tune.to_dict() | asdict(context.tuning) if context.tuning else None,
        rung=context.ladder.rung if context.ladder else None,
        ladder=asdict(context.ladder) if context.ladder else None,
        looks=context.looks,
        planned_looks=context.planned_looks,
        versions=versions(),
        git=git_state(),
        started_at=now(),
    )


_OF_RUN = "began-anew"  # in a folder of files that were moved aside: the identity of the run that then began


def set_aside_before(folder: Path, identity: str) -> list[str]:
    """A note for each time that the run of that identity began anew, as long as what was moved aside is there."""
    marks = sorted(folder.glob(f"{DAMAGED_FOLDER}-*/{_OF_RUN}"))
    return [
        f"began anew, since {CONFIG_FILE} was damaged; what was there lies in {mark.parent.name}, which may be removed"
        for mark in marks
        if mark.read_text(encoding="utf-8") == identity
    ]


def changed_data(name: str) -> str:
    """In words, that the data of a study are not those that it was planned with, and what to do."""
    return (
        f"{name}: the data have changed since the study was planned; put them back and resume, or give the command of "
        "the study again to train all of it on what is there now"
    )


def variant_of(config: RunConfig) -> str:
    """What a run was asked for by, where no plan has given its variant a label."""
    named = ("seed=", "name=", "study=", "logger", "question=", "comparison.", "ladder", "hydra")
    return ",".join(redact_override(alike(o)) for o in config.overrides if not o.startswith(named))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
