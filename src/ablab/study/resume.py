"""A study that goes on from its plan: `ablab resume DIR`, on this machine or on another that sees the folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ablab.errors import UserError
from ablab.study.events import Observer
from ablab.study.launch import Ended, launch
from ablab.study.plan_file import read_plan, return_to
from ablab.study.planning.settings import Settings
from ablab.study.supervision.lock import StudyLock


def resume(study: Path, *, retry_failed: bool, jobs: int | None, observe: Callable[[], Observer]) -> Ended:
    """Go on with the runs of the study that are not done with. What was edited since the plan was made changes none.

    Args:
        retry_failed: also try those again that failed.
        jobs: runs side by side; None: as the plan says.

    Raises:
        UserError: there is no complete plan in the folder, or another process works on it.
        KeyboardInterrupt: Ctrl-C, after running runs have saved themselves.
    """
    study = study.resolve()
    plan = read_plan(study)
    if not plan.runs:
        raise UserError(f"{study}: its plan is not complete; run its command again")
    return_to(plan)
    settings = Settings.of(plan.runs[0].config)
    settings = replace(settings, jobs=jobs or settings.jobs, retry="failed" if retry_failed else None)
    with StudyLock(study) as lock:
        return launch(plan.runs, settings, observe(), heartbeat=lock.beat)
