"""A study that goes on from its plan: `ablab resume DIR`, on this machine or on another that sees the folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ablab.study.events import Observer
from ablab.study.launch import launch
from ablab.study.plan_file import PlannedRun
from ablab.study.supervision.lock import StudyLock


def resume(
    study: Path, runs: Sequence[PlannedRun], *, retry_failed: bool, jobs: int | None, observe: Callable[[], Observer]
) -> None:
    """Go on with the runs of the study that are not done with. What was edited since the plan was made changes none.

    Args:
        study: the folder.
        runs: of its plan.
        retry_failed: also try those again that failed.
        jobs: runs side by side; None: as the plan says.

    Raises:
        UserError: another process works on the study.
        KeyboardInterrupt: Ctrl-C, after running runs have saved themselves.
    """
    settings = runs[0].config.execution
    settings = replace(settings, jobs=settings.jobs if jobs is None else jobs, retry="failed" if retry_failed else None)
    with StudyLock(study) as lock:
        launch(runs, settings, observe(), heartbeat=lock.beat)
