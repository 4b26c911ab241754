"""Runs by another launcher of Hydra's than ours, as joblib or submitit, and what Hydra is told of a run."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus

from ablab.config import fingerprint
from ablab.config.redact import hand_over
from ablab.config.schema import ExecutionConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record, write_record
from ablab.study.launch import finished_record, tell_damage, tell_outdated
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.code import freeze_for_jobs
from ablab.training.begin import new_record

Launch = Callable[[Sequence[Sequence[str]]], Sequence[JobReturn]]


class OtherLauncher:
    """Hands runs to a launcher of Hydra's that is not ours, whose jobs find them in the plan of their study.

    Args:
        launch: runs lists of overrides, each as a job.
        study: the folder of the study.
        compose: what the study's configs are composed by.
        preflight: that has checked its runs.
    """

    def __init__(self, launch: Launch, study: Path, compose: Composer, preflight: Preflight) -> None:
        self._foreign, self._study, self._compose, self._preflight = launch, study, compose, preflight
        self._copies: Path | None = None  # of code and configs, for its jobs
        self.left_alive = False  # perhaps: jobs of a launcher that gave up

    def launch(self, runs: Sequence[Run], planned: Sequence[PlannedRun], *, retry_failed: bool) -> list[JobReturn]:
        """Hand over the runs that are left; each job finds its run in the plan on the disk."""
        returns = {}
        outdated: list[Path] = []
        for place, run in enumerate(planned):
            record = finished_record(run.config, run.folder, self._preflight, retry_failed, outdated)
            if record is not None:
                returns[place] = job_return(record)
                tell_damage(run.folder, record)
        tell_outdated(outdated)
        left = [place for place in range(len(runs)) if place not in returns]
        if not left:
            return [returns[place] for place in range(len(runs))]
        print(f"{len(returns)} of {len(runs)} runs are done with; {len(left)} are launched")
        if self._copies is None:
            configs = [run.config for run in planned]
            self._copies = freeze_for_jobs(self._study, self._compose.loader, configs)
        for place in left:
            hand_over(planned[place].config.options)
        gave_up = ""
        try:
            self._foreign([self._lying(runs[place], planned[place]).hydra_overrides for place in left])
        except Exception as error:  # a job that died: what the others left behind counts all the same
            gave_up = f": {' '.join(str(error).split())[:300]}"
            self.left_alive = True
            print(f"ablab: the launcher gave up{gave_up}", file=sys.stderr)
        returns |= {place: job_return(_left_by_job(planned[place], gave_up)) for place in left}
        return [returns[place] for place in range(len(runs))]

    def tidy(self) -> None:
        """Remove what was copied for the jobs, once none of them can need it."""
        if self._copies is not None and not self.left_alive:
            shutil.rmtree(self._copies, ignore_errors=True)

    def _lying(self, run: Run, planned: PlannedRun) -> Run:
        """The run with its folder: a launcher that is given some of the runs alone would count them anew."""
        return replace(run, folder=run.folder or str(planned.folder.relative_to(self._study)))


def _left_by_job(run: PlannedRun, gave_up: str) -> Record:
    """The record that a job of another launcher left; one that left none is a row with its reason all the same.

    So is one in whose folder there is only the record of an earlier run, of other settings.
    """
    with contextlib.suppress(UserError):
        record = read_record(run.folder / RECORD_FILE)
        if record.fingerprint == fingerprint(run.config):
            return record
    record = new_record(run.config, run.context)
    record.status, record.cause = "interrupted", None
    record.reason = f"its job ended without a record{gave_up}"
    write_record(run.folder, record)
    return record


def refuse_ours(settings: ExecutionConfig) -> None:
    """Raises UserError where something is asked for that only our own launcher does."""
    asked = {"jobs": settings.jobs is not None, "runs_per_device": settings.runs_per_device != 1}
    asked |= {"on_failure": settings.on_failure != "continue", "stack": settings.stack is not None}
    for name, given in asked.items():
        if given:
            raise UserError(f"{name}={getattr(settings, name)}: other launchers have settings of their own for that")


def job_return(record: Record | None) -> JobReturn:
    """What Hydra is told of a run: a failure is a finding of the sweep, not an error of it.

    The value is the primary metric, for sweepers that search; NaN where there is none.
    """
    job = JobReturn(status=JobStatus.COMPLETED)
    job.return_value = objective(record)
    return job


def objective(record: Record | None) -> float:
    """The primary metric of a run that went well, else NaN."""
    if record is None or record.status != "ok" or record.primary is None:
        return float("nan")
    return record.metrics.get(record.primary.name, float("nan"))
