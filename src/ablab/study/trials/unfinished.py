"""Trials that a study was stopped in, or that somebody else works on: nothing is chosen by a part of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ablab.config import fingerprint
from ablab.config.schema import PILOT_FOLDER
from ablab.errors import UserError
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.plan_file import PlannedRun

_JUDGED = ("ok", "diverged", "failed")  # what has ended like this says something of the point that it was tried at


class UnfinishedError(Exception):
    """Not all trials have ended, so that nothing can be chosen yet. No mistake: one line on why, and how to go on."""


def refuse_unfinished(study: Path, trials: Sequence[PlannedRun], stopped_by: str | None) -> None:
    """Raise UnfinishedError where some of the trials have not ended, or the failure of one has ended the study.

    Args:
        study: the folder.
        stopped_by: that failure.
    """
    left = [(run.info.label, why) for run in trials if (why := _why_left(run)) is not None]
    if not left and stopped_by is None:
        return
    measures = Path(PILOT_FOLDER) in trials[0].folder.relative_to(study).parents
    doing, kind = ("measuring speeds", "pilots") if measures else ("tuning", "tuning runs")
    why = stopped_by or f"{left[0][0]} has not ended ({left[0][1]})"
    way_out = "" if measures or stopped_by else "; a value that is lost each time has to leave its grid"
    raise UnfinishedError(
        f"stopped while {doing}, since {why}; with {len(left)} of {len(trials)} {kind} left, nothing is chosen or "
        f"compared: the same command goes on, or ablab resume --trust {shlex.quote(str(study))}{way_out}"
    )


def _why_left(run: PlannedRun) -> str | None:
    """Why a trial has not ended; None where it has."""
    try:
        record = read_record(run.folder / RECORD_FILE)
    except UserError:
        return "it left no record"
    if record.fingerprint != fingerprint(run.config):
        return "it left no record"  # that of an earlier run, with other settings, still lies there
    if record.status not in _JUDGED or record.cause == "disk":
        return record.reason or record.status
    return None
