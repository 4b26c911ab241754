"""Runs the runs of a plan that are not done with, for the first time or when a study goes on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ablab.config import RunConfig, fingerprint
from ablab.config.identity import what_differs
from ablab.config.schema import ExecutionConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.run_folder import damage_of, listed_checksums
from ablab.results.store import CHECKPOINT_FOLDER, RECORD_FILE, read_record
from ablab.study.events import Observer
from ablab.study.launched import refuse_nodes
from ablab.study.plan_file import Plan, PlannedRun
from ablab.study.planning.preflight import Preflight
from ablab.study.seed_blocks import Decide, SeedBlocks
from ablab.study.supervision.code import freeze_code
from ablab.study.supervision.lock import StudyLock
from ablab.study.supervision.resources import side_by_side
from ablab.study.supervision.stack import units
from ablab.study.supervision.supervisor import Supervisor, may_try_again
from ablab.training.begin import changed_data


def finished_record(
    config: RunConfig, folder: Path, preflight: Preflight, retry_failed: bool, outdated: list[Path] | None = None
) -> Record | None:
    """The record in `folder` if it is of this very run and the run is done with, else None.

    It is of this run if data, and the checkpoint of another run that it went on from, are those that there are now.

    A run that went well or diverged is: it would do the same again. One that was interrupted goes on. One that failed
    is tried again where that was asked for, where it has attempts left that its supervisor did not live to make, and
    where a full disk stopped it.

    Args:
        outdated: takes the folder of a run that would be done with, had its data, or its trunk, not changed.
    """
    try:
        record = read_record(folder / RECORD_FILE)
    except UserError:
        return None
    done = ("ok", "diverged") if retry_failed else ("ok", "diverged", "failed")
    if record.fingerprint != fingerprint(config) or record.status not in done:
        return None
    left = may_try_again(record.status, record.cause, record.attempts, config.execution.retries)
    if left or (record.status == "failed" and record.cause == "disk"):
        return None
    if _began_elsewhere(config, record):
        if outdated is not None:
            outdated.append(folder)
        return None
    if record.corpus is None:  # it failed before its data were read
        return record
    # The config says where the corpus lies; whether it is still the same is for its hash to say.
    if record.corpus == preflight.task(config).corpus:
        return record
    if outdated is not None:
        outdated.append(folder)
    return None


def _began_elsewhere(config: RunConfig, record: Record) -> bool:
    """Whether the checkpoint that a run went on from is none of those that the other run has by now.

    A trunk whose checkpoints are gone leaves its forks as they are.
    """
    if config.continue_from is None or record.origin is None:
        return False
    try:
        listed = listed_checksums(Path(config.continue_from) / CHECKPOINT_FOLDER)
    except (OSError, ValueError, TypeError, KeyError):
        return False
    return bool(listed) and record.origin not in listed


def tell_outdated(folders: Sequence[Path]) -> None:
    """Say in a line that finished runs are trained again, since their data, or trunks, are not what they were."""
    if folders:
        more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
        with_trunk = any(read_record(folder / RECORD_FILE).origin for folder in folders)
        changed = "the data, or the checkpoint they went on from," if with_trunk else "the data"
        print(f"ablab: {folders[0]}{more}: trained again, since {changed} have changed", file=sys.stderr)


def tell_replaced(runs: Sequence[PlannedRun]) -> None:
    """Say in a line that finished runs of other settings lie where these runs will, and are replaced."""
    found = []
    for run in runs:
        with contextlib.suppress(UserError):
            other = read_record(run.folder / RECORD_FILE)
            if other.status == "ok" and other.fingerprint != fingerprint(run.config):
                found.append((run.folder, what_differs(run.config.shown(), other.config)))
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        print(f"ablab: {found[0][0]}{more}: trained again, with {found[0][1]}", file=sys.stderr)


def tell_damage(folder: Path, record: Record) -> None:
    """Say what of a finished run is damaged, in a line: it is not trained again, since its record is whole."""
    if record.status in ("ok", "diverged") and (found := damage_of(folder, record)):
        print(f"ablab: {folder}: finished, and {', '.join(found)}", file=sys.stderr)


def launch(
    runs: Sequence[PlannedRun],
    settings: ExecutionConfig,
    observer: Observer,
    preflight: Preflight | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> dict[int, Record]:
    """See each run of the plan to its end, whatever that is; the records by `RunOutline.index`.

    Runs that were not started, since the failure of another one ended the study, have none.

    The code of all of them is read before the first one starts: what is edited meanwhile changes no queued run.

    Args:
        preflight: knows the data of the runs already, if given.
        heartbeat: called at least once a second.

    Raises:
        KeyboardInterrupt: Ctrl-C, after running runs have saved themselves.
    """
    with watched(runs, observer):
        records, stopped_by = carry_out(runs, settings, observer, preflight or Preflight(), heartbeat)
    tell_stopped(stopped_by)
    return records


def launch_in_blocks(
    blocks: SeedBlocks,
    settings: ExecutionConfig,
    observer: Observer,
    preflight: Preflight | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> dict[int, Record]:
    """Do what `launch` does with the runs of a study that makes its seeds in blocks, as many as it takes.

    Raises:
        UserError: as `SeedBlocks.run` does.
        KeyboardInterrupt: as `launch` does.
    """
    preflight, records = preflight or Preflight(), dict[int, Record]()
    stops: list[str] = []

    def carry_out_block(block: Sequence[PlannedRun]) -> bool:
        found, stopped_by = carry_out(block, settings, observer, preflight, heartbeat)
        records.update(found)
        stops.extend([stopped_by] if stopped_by else [])
        return not stops

    with watched(blocks.planned, observer):
        blocks.run(carry_out_block, observer.block)
    tell_stopped(next(iter(stops), None))
    return records


@contextlib.contextmanager
def watched(runs: Sequence[PlannedRun], observer: Observer) -> Iterator[None]:
    """Have an observer show the runs that are carried out within the block."""
    try:
        observer.planned([run.info for run in runs])
        yield
    finally:
        observer.close()


def carry_out(
    runs: Sequence[PlannedRun],
    settings: ExecutionConfig,
    observer: Observer,
    preflight: Preflight,
    heartbeat: Callable[[], None],
) -> tuple[dict[int, Record], str | None]:
    """Do what `launch` does with some of the runs that the observer shows; the records, and what stopped the study."""
    records: dict[int, Record] = {}
    outdated: list[Path] = []
    for run in runs:
        record = finished_record(run.config, run.folder, preflight, settings.retry == "failed", outdated)
        if record is not None:
            records[run.info.index] = record
            observer.kept(run.info, record)
            tell_damage(run.folder, record)
    tell_outdated(outdated)
    left = [run for run in runs if run.info.index not in records]
    supervisor = Supervisor(settings, observer, heartbeat)
    for run in left:
        refuse_nodes(run.config)
    tell_replaced(left)
    if left:
        freeze_code(run.config for run in left)
        room = side_by_side([run.config for run in left], settings)
        records |= supervisor.run(units(runs, left, preflight.may_stack, room))
    return records, supervisor.stopped_by


def tell_stopped(stopped_by: str | None) -> None:
    """Say in a line that the failure of a run has ended the study."""
    if stopped_by:
        print(f"ablab: stopped, since {stopped_by}", file=sys.stderr)


def resume(
    study: Path, plan: Plan, *, retry_failed: bool, jobs: int | None, observe: Callable[[], Observer], decide: Decide
) -> dict[int, Record]:
    """Go on with the runs of the study that are not done with; the records, as `launch` returns them.

    What was edited since the plan was made changes no run.

    Args:
        study: the folder.
        plan: of its runs.
        retry_failed: also try those again that failed.
        jobs: runs side by side; None: as the plan says.
        decide: draws the verdicts of a study that makes its seeds in blocks.

    Raises:
        UserError: another process works on the study, or its data are not those that it was planned with.
        KeyboardInterrupt: Ctrl-C, after running runs have saved themselves.
    """
    runs = plan.runs or []
    settings = runs[0].config.execution
    settings = replace(settings, jobs=settings.jobs if jobs is None else jobs, retry="failed" if retry_failed else None)
    preflight = Preflight()
    with StudyLock(study) as lock:
        _check_data(study, runs, preflight)
        if plan.seeds is None:
            return launch(runs, settings, observe(), preflight, lock.beat)
        blocks = SeedBlocks(study=study, planned=runs, seeds=plan.seeds, comparison=plan.comparison, decide=decide)
        return launch_in_blocks(blocks, settings, observe(), preflight, lock.beat)


def _check_data(study: Path, runs: Sequence[PlannedRun], preflight: Preflight) -> None:
    """Raises UserError where runs would be trained on other data than those that are done: nothing is lost yet."""
    for run in runs:
        if (
            run.context.corpus is not None
            and (corpus := preflight.task(run.config).corpus).sha256 != run.context.corpus
        ):
            raise UserError(f"{study}: {changed_data(corpus.name)}")
