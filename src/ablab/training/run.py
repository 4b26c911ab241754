"""One run, from its config to its record. A pure function of the config, in a folder of its own."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ablab.config import RunConfig, fingerprint
from ablab.errors import Diverged, Interrupted, UserError, one_line
from ablab.model.mechanism import probe_outputs
from ablab.results.hparams import write_hparams
from ablab.results.record import BudgetReport, Record, RunContext
from ablab.results.store import (
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    METRICS_FILE,
    RECORD_FILE,
    check_ours,
    clear,
    read_record,
    remove_orphans,
    write_atomically,
    write_record,
)
from ablab.tasks.base import Task
from ablab.training.build import BuiltRun
from ablab.training.callback_group import build_callbacks
from ablab.training.callbacks import Heartbeat, Mechanisms, Progress, ReportProgress, seed_everything_else
from ablab.training.checkpoint_files import Found, Origin, newest_whole
from ablab.training.cost import CostMeter
from ablab.training.failures import failure_of, forget_failures, leave
from ablab.training.loggers import build_loggers, close_loggers, continue_loggers
from ablab.training.module import TrainingModule
from ablab.training.optimizers.groups import describe_groups
from ablab.training.pictures import leave_pictures
from ablab.training.provenance import git_state, machine, versions
from ablab.training.stacks import forget_stacks
from ablab.training.stopping import StopRequest, stop_on_request
from ablab.training.strategies.base import parallel
from ablab.training.token_counts import TokenCounts
from ablab.training.traffic.callback import Communicating
from ablab.training.trainer import build_module, build_trainer, quiet_lightning, untimed_steps
from ablab.training.warm_start import origin_of
from ablab.training.watchers import Watchers
from ablab.training.world import world


def execute(
    config: RunConfig,
    folder: Path,
    context: RunContext | None = None,
    progress: Progress | None = None,
    beat: Callable[[], None] | None = None,
    built: BuiltRun | None = None,
) -> Record:
    """Train and evaluate the run that `config` describes, and leave everything about it in `folder`.

    Whatever happens, the record is written, atomically and last: `ok`, `diverged` (the loss became NaN or infinite),
    `interrupted` (Ctrl-C, or asked to stop) or `failed`, with the reason. With several processes each of them calls
    this with the same arguments, and the first writes.

    A checkpoint of this very run in `folder` is gone on from, and the run then ends as if it had never been
    interrupted: on a CPU with the same number of threads to the last bit.

    Args:
        config: of the run.
        folder: of this run alone, as `prepare_folder` left it.
        context: of the run in its study; None: it is in none.
        progress: called a few times a second.
        beat: called at every stage of the set-up, optimizer step and batch of an evaluation, so that somebody sees
            that this process has not stopped.
        built: the run as it was checked in this process; None: it is built here.
    """
    place = world()
    record = new_record(config, context)
    loggers: list[Logger] = []
    try:
        loggers = build_loggers(
            config.options["logger"],
            folder,
            study=record.study,
            variant=record.variant,
            seed=record.seed,
            config=config.to_dict(),
        )
        with quiet_lightning(), stop_on_request() as stop:
            _train(config, built, folder, record, loggers, progress, stop, beat)
        record.status, record.reason, record.cause = "ok", None, None
    except Diverged as outcome:
        record.status, record.reason, record.cause = "diverged", str(outcome), None
    except (Interrupted, KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C and SIGTERM into SystemExit
        record.status, record.reason, record.cause = "interrupted", "stopped before it was finished", None
    except Exception as error:
        if isinstance(error, MisconfigurationException):  # by which Lightning tells users of their mistakes
            error = UserError(one_line(error))
        failure = failure_of(error, place.rank)
        record.reason, record.cause, record.traceback = failure.reason, failure.cause, failure.traceback or None
        if place.size > 1:
            leave(folder, failure)
        if not isinstance(error, UserError):
            traceback.print_exc()
    finally:
        record.finished_at = _now()
        try:
            close_loggers(loggers, record.status, record)
        except Exception:  # of a service that shows results; the result stands without it
            traceback.print_exc()
        if place.rank == 0:
            write_hparams(folder, record)
            write_record(folder, record)
    return record


def prepare_folder(config: RunConfig, folder: Path) -> None:
    """Make `folder` ready for the run. Done once, before any process of the run.

    What an earlier attempt at this very run left is kept, so that it can go on; what another run left is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_of(config, folder):
        clear(folder)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    forget_failures(folder)
    forget_stacks(folder)
    remove_orphans(folder, (CONFIG_FILE, METRICS_FILE, RECORD_FILE))
    write_atomically(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(config.to_dict())))


def _is_of(config: RunConfig, folder: Path) -> bool:
    """Whether an attempt at the run of `config` was made in `folder`, and did not come to an end of its own."""
    check_ours(folder)
    try:
        earlier: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG_FILE))
        same = fingerprint(RunConfig.from_dict(earlier)) == fingerprint(config)
    except (OSError, ValueError, AttributeError, TypeError, UserError, YAMLError, OmegaConfBaseException):
        return False
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
        config=config.to_dict(),
        budget=asdict(config.budget) | asdict(context.budget or BudgetReport()) if config.budget.match else None,
        tuning=asdict(config.tune) | asdict(context.tuning) if context.tuning else None,
        versions=versions(),
        git=git_state(),
        started_at=_now(),
    )


def _train(
    config: RunConfig,
    built: BuiltRun | None,
    folder: Path,
    record: Record,
    loggers: list[Logger],
    progress: Progress | None,
    stop: StopRequest,
    beat: Callable[[], None] | None,
) -> None:
    heart = [] if beat is None else [Heartbeat(beat)]
    accumulate = config.trainer.accumulate_grad_batches
    built = built or BuiltRun.of(config)
    task = built.task
    record.primary, record.corpus, record.oracle = task.primary, task.corpus, task.oracle
    record.cost = cost = replace(built.cost)
    meter, tokens = CostMeter(task.tokens_per_batch * accumulate, untimed_steps(config)), TokenCounts(accumulate)
    mechanisms, traffic = Mechanisms(tokens.metrics), Communicating(untimed_steps(config))
    told = [ReportProgress(progress, task.primary)] if progress else []
    theirs = build_callbacks(config.options["callbacks"], folder)
    callbacks = [Watchers(traffic, meter, tokens, mechanisms, *heart, *told), *theirs]
    origin = Origin(run=record.fingerprint, corpus=task.corpus.sha256)
    trainer = build_trainer(built, folder, loggers, callbacks, origin, stop)
    checkpoint = _checkpoint(config, folder, origin, record)
    if checkpoint is not None:
        continue_loggers(loggers, checkpoint.step)
    record.machine = machine(trainer.strategy.root_device)
    strategy = parallel(trainer.strategy)
    record.notes += strategy.notes(config.trainer.max_steps)
    seed_everything_else(config.seed, strategy.dp_rank(trainer.global_rank))
    module = build_module(built)
    try:
        trainer.fit(module, datamodule=task, ckpt_path=checkpoint.path if checkpoint else None, weights_only=True)
        record.metrics, record.evaluated = _evaluate(trainer, module, task), module.evaluated
        record.last = module.last
        module.model = strategy.full_model(module.model, built.build_model)  # to ask it about itself
        record.pictures = leave_pictures(trainer, module, task, folder)
        record.responses = probe_outputs(module.model) | {"schedule": _trace(module.learning_rates)}
        traffic.gather(trainer)
    finally:
        trainer.profiler.teardown(stage=None)  # type: ignore[attr-defined]  # else torch's goes on in the process
        meter.measured(cost, trainer.global_step)
        record.communication = traffic.communication
        record.mechanism = mechanisms.values | traffic.mechanism(trainer)
        record.parameter_groups = [group for each in trainer.optimizers for group in describe_groups(each)]


def _checkpoint(config: RunConfig, folder: Path, origin: Origin, record: Record) -> Found | None:
    """The checkpoint that the run goes on from: its own, else that of the run that it was told to go on from.

    Where it came from, and what was wrong with a newer one of its own, is told in the record.
    """
    found, damaged = newest_whole(folder / CHECKPOINT_FOLDER, origin)
    for line in damaged:
        record.notes.append(f"{line}: went on from {found.path.name if found else 'the start'}")
        print(f"{folder}: {record.notes[-1]}", file=sys.stderr)
    if found is None:
        found, whose = origin_of(config, origin.corpus)
        record.notes += [whose] if whose else []
    return found


def _evaluate(trainer: Trainer, module: TrainingModule, task: Task) -> dict[str, float]:
    """The final weights on the validation and test splits, unless the training ended with an evaluation anyway."""
    if module.evaluated_at != trainer.global_step:
        trainer.validate(module, datamodule=task, verbose=False)
    if task.test_dataloader():
        trainer.test(module, datamodule=task, verbose=False)
    return module.metrics


def _trace(rates: list[float]) -> list[float]:
    """The curve of the learning rate in a few numbers that no other curve of its length has by chance."""
    return [sum(rates), sum(rate * rate for rate in rates), sum(step * rate for step, rate in enumerate(rates))]


def variant_of(config: RunConfig) -> str:
    """What a run was asked for by, where no plan has given its variant a label."""
    named = ("seed=", "name=", "study=", "logger", "question=", "comparison.", "hydra")
    return ",".join(o for o in config.overrides if not o.startswith(named))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
