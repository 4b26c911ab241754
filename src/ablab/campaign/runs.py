"""The runs of a campaign: made by the supervisor as those of a sweep are, or in this process; kept in its folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ablab.analysis.evidence import same_run
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.campaign import BASELINE, Declaration, JudgedRun
from ablab.results.record import Record
from ablab.results.run_context import RunContext
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.events import Observer
from ablab.study.launch import finished_record, launch
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.prepare import info_of
from ablab.training.begin import prepare_folder
from ablab.training.run import execute

Train = Callable[[Sequence[PlannedRun]], list[Record]]  # the records of runs, in their order
ENVIRONMENT = frozenset({"disk", "killed"})  # causes of a failure that say nothing of a proposal
LIMITS = frozenset({"memory", "timeout", "hung"})  # those that depend on the machine, and on what runs beside it


def planned_run(config: RunConfig, folder: Path, label: str, index: int) -> PlannedRun:
    """A run as the supervisor takes it."""
    context = RunContext(variant=label, index=index)
    return PlannedRun(info=info_of(config, index, label), config=config, folder=folder, context=context)


def by_supervisor(preflight: Preflight, observe: Callable[[], Observer], beat: Callable[[], None]) -> Train:
    """Trains runs in processes of their own, side by side as `jobs` says."""

    def train(runs: Sequence[PlannedRun]) -> list[Record]:
        settings = runs[0].config.execution
        if any(map(_says_nothing, runs)):
            settings = replace(settings, retry="failed")
        records = launch(runs, settings, observe(), preflight, beat)
        return [_of(records.get(run.info.index), run) for run in runs]

    return train


def in_this_process(preflight: Preflight, beat: Callable[[], None]) -> Train:
    """Trains runs here, one after the other: for small ones, which a process of their own would cost more."""

    def train(runs: Sequence[PlannedRun]) -> list[Record]:
        return [one(run) for run in runs]

    def one(run: PlannedRun) -> Record:
        record = finished_record(run.config, run.folder, preflight, retry_failed=_says_nothing(run))
        if record is None:
            prepare_folder(run.config, run.folder)
            record = execute(run.config, run.folder, run.context, beat=beat)
        return _of(record, run)

    return train


def _says_nothing(run: PlannedRun) -> bool:
    """Whether an earlier call has left a failure that says nothing of the run: it is made again, however often."""
    try:
        record = read_run(run.folder)
    except UserError:
        return False
    return record.status == "failed" and record.cause in ENVIRONMENT | LIMITS


def met_limit(record: Record) -> bool:
    """Whether a run ended by a limit of the machine: elsewhere, or another time, it might not."""
    return record.status == "failed" and record.cause in LIMITS


def _of(record: Record | None, run: PlannedRun) -> Record:
    """The record of a run that has ended.

    Raises:
        KeyboardInterrupt: the run was stopped.
        UserError: it could not be made, for a reason that is not its own.
    """
    if record is None or record.status == "interrupted":
        raise KeyboardInterrupt
    if record.status == "failed" and record.cause in ENVIRONMENT:
        raise _to_mend(run.folder, record)
    return record


def _to_mend(folder: Path, record: Record) -> UserError:
    return UserError(f"{folder}: {record.reason}; mend that, and the same command goes on")


def judged(record: Record, folder: Path, of: str, declared: Declaration, baseline: Record | None = None) -> JudgedRun:
    """What the ledger keeps of a run.

    Args:
        of: the identity of a proposal, or `BASELINE`.
        baseline: the record of the baseline's run on the same seed, for a proposal's.

    Raises:
        UserError: it is the baseline's, and has not ended well: nothing could be compared with it.
    """
    if of == BASELINE and met_limit(record):
        raise _to_mend(folder, record)
    value = record.measured.get(declared.metric) if record.status == "ok" else None
    if of == BASELINE and (value is None or not math.isfinite(value)):
        why = record.reason or f"no value of {declared.metric}"
        raise UserError(f"{folder}: the baseline has {record.status} ({why}): a campaign needs one that trains well")
    return JudgedRun(
        of=of,
        seed=record.seed,
        status=record.status,
        value=value if value is not None and math.isfinite(value) else None,
        reason=record.reason,
        again=baseline is not None and record.status == "ok" and same_run(record, baseline),
        parameters=record.cost.parameters,
        flops=record.cost.flops_total,
        folder=str(folder),
        fingerprint=record.fingerprint,
    )


def read_run(folder: Path) -> Record:
    """The record of a run that the ledger names. Raises UserError: it is not there any more."""
    return read_record(folder / RECORD_FILE)
