"""Runs the runs of a plan, one after the other, each in processes of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.sweep import compose_run
from ablab.study.progress import SweepProgress
from ablab.study.resume import finished_record
from ablab.study.supervision.supervisor import supervise


def launch(loader: ConfigLoader, config: DictConfig, plan: Sequence[Sequence[str]]) -> list[JobReturn]:
    """See each run of the plan to its end, whatever that is. Runs that are finished already are kept.

    All configs are frozen before the first run starts: what is edited meanwhile changes no queued run.
    """
    runs = [compose_run(loader, config, list(overrides)) for overrides in plan]
    preflight = Preflight()  # knows the data of the runs, each read once
    returns = []
    with SweepProgress(total=len(runs)) as progress:
        for frozen, folder in runs:
            started = time.monotonic()
            record = finished_record(frozen, folder, preflight)
            kept = record is not None
            if record is None:
                with progress.run(_label(frozen)) as report:
                    record = supervise(frozen, folder, report)
            progress.finished(_label(frozen), record, kept, time.monotonic() - started)
            returns.append(_job_return(record))
    return returns


def _label(config: dict[str, Any]) -> str:
    return f"{config['variant'] or 'default'} seed={config['seed']}"


def _job_return(record: Record) -> JobReturn:
    # A run that failed is a finding of the sweep, not an error of it.
    job = JobReturn(status=JobStatus.COMPLETED)
    job.return_value = record.status
    return job
