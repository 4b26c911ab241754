"""One run, from its config to its record. A pure function of the config, in a folder of its own."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from torch.optim.optimizer import StateDict

from ablab.config import RunConfig
from ablab.config.redact import redact_text, secrets_in
from ablab.errors import Diverged, Interrupted, UserError, one_line
from ablab.model.attention.indexer import unchosen
from ablab.model.mechanism import probe_outputs
from ablab.model.position import idle_position
from ablab.model.transformer import Transformer
from ablab.results.hparams import write_hparams
from ablab.results.record import FUNCTION, Cost, Record, Status
from ablab.results.run_context import RunContext
from ablab.results.run_folder import curves_sha256
from ablab.results.store import CHECKPOINT_FOLDER, write_record
from ablab.tasks.base import Task
from ablab.training.anneal import anneal, tidy
from ablab.training.begin import changed_data, new_record, now, set_aside_before
from ablab.training.build import BuiltRun
from ablab.training.callback_group import build_callbacks, unaveraged
from ablab.training.callbacks import Progress, seed_everything_else
from ablab.training.checkpoint_list import Found, Origin, newest_whole
from ablab.training.compile import compile_notes, told
from ablab.training.failures import ended_itself, failure_of, leave, noted
from ablab.training.fork import Fork
from ablab.training.function_probe import function_responses
from ablab.training.loggers import build_loggers, close_loggers, continue_loggers, outlive
from ablab.training.module import TrainingModule
from ablab.training.optimizers.groups import describe_groups
from ablab.training.pictures import leave_pictures
from ablab.training.provenance import machine
from ablab.training.stacked.module import Seat
from ablab.training.stopping import StopRequest, stop_on_request
from ablab.training.strategies.base import Parallel, parallel
from ablab.training.trainer import (
    begin_and_end,
    build_module,
    build_trainer,
    end_profile,
    evaluate,
    quiet_lightning,
)
from ablab.training.warm_start import origin_of, trunk_of
from ablab.training.watching import watching
from ablab.training.world import world


def execute(
    config: RunConfig,
    folder: Path,
    context: RunContext | None = None,
    progress: Progress | None = None,
    beat: Callable[[], None] | None = None,
    built: BuiltRun | None = None,
    counted: Cost | None = None,
    seat: Seat | None = None,
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
        counted: what a run that is built here need not count of its cost, since one of the same model has.
        seat: of a run that is trained with others in this process; None: it is alone.
    """
    place = world()
    record = new_record(config, context)
    record.notes += set_aside_before(folder, record.fingerprint)
    loggers: list[Logger] = []
    try:
        loggers = build_loggers(
            config.options["logger"],
            folder,
            study=record.study,
            variant=record.variant,
            seed=record.seed,
            config=config.shown(),
        )
        outlive(loggers, record.notes)
        with _manners(seat) as stop:
            built = built or BuiltRun.of(config, counted)
            _check_data(built.task, context)
            _train(config, built, folder, record, loggers, progress, stop, beat, seat)
            anneal(built, folder, record, stop, beat)
        record.status, record.reason, record.cause = "ok", None, None
    except Diverged as outcome:
        record.status, record.reason, record.cause = "diverged", str(outcome), None
    except (Interrupted, KeyboardInterrupt) as stopped:
        record.status, record.reason, record.cause = _INTERRUPTED
        record.reason = str(stopped) or record.reason
    except (Exception, SystemExit) as ended:
        error: BaseException = ended
        if isinstance(error, SystemExit) and not ended_itself(error):  # Lightning's, in the place of Ctrl-C
            record.status, record.reason, record.cause = _INTERRUPTED
            return record
        if isinstance(error, MisconfigurationException):  # by which Lightning tells users of their mistakes
            error = UserError(one_line(error))
        error = told(error, config.trainer.compile)
        hidden = secrets_in(config.to_dict())
        failure = failure_of(error, place.rank, hidden)
        record.reason, record.cause, record.traceback = failure.reason, failure.cause, failure.traceback or None
        if place.size > 1:
            leave(folder, failure)
        if not isinstance(error, UserError):
            print(redact_text(traceback.format_exc(), hidden), end="", file=sys.stderr)
    finally:
        record.finished_at = now()
        with noted("closing a logger", record.notes, secrets_in(config.to_dict())):
            close_loggers(loggers, record.status, record)
        if place.rank == 0:
            with noted("the event file of hyper-parameters", record.notes):
                write_hparams(folder, record)
            record.curves_sha256 = curves_sha256(folder)
            write_record(folder, record)
            tidy(folder, record)
    return record


@contextlib.contextmanager
def _manners(seat: Seat | None) -> Iterator[StopRequest]:
    """Within it, Lightning is quiet and Ctrl-C a request; of a run in a stack, all of the process sees to that."""
    if seat is not None:
        yield seat.stop
        return
    with quiet_lightning(), stop_on_request() as stop:
        yield stop


_INTERRUPTED: tuple[Status, str, None] = ("interrupted", "stopped before it was finished", None)


def _check_data(task: Task, context: RunContext | None) -> None:
    """Raises Interrupted where the data are not those that the study of the run was planned with."""
    if context is not None and context.corpus not in (None, task.corpus.sha256):
        raise Interrupted(changed_data(task.corpus.name))


def _train(
    config: RunConfig,
    built: BuiltRun,
    folder: Path,
    record: Record,
    loggers: list[Logger],
    progress: Progress | None,
    stop: StopRequest,
    beat: Callable[[], None] | None,
    seat: Seat | None,
) -> None:
    task = built.task
    record.primary, record.corpus, record.oracle = task.primary, task.corpus, task.oracle
    record.cost = cost = replace(built.cost) if world().rank == 0 else Cost()  # counting takes long, and one writes
    theirs = build_callbacks(config.options["callbacks"], folder)
    watched = watching(built, folder, progress, beat, sharers=seat.size if seat else 1, theirs=theirs)
    meter, mechanisms, traffic, callbacks = watched.meter, watched.mechanisms, watched.traffic, watched.callbacks
    origin = Origin(run=record.fingerprint, corpus=task.corpus.sha256)
    trainer = build_trainer(built, folder, loggers, callbacks, origin, stop)
    checkpoint = _checkpoint(config, folder, origin, record)
    own = checkpoint is not None and checkpoint.path.is_relative_to(folder)
    changed = checkpoint.changed_curves(folder) if checkpoint and own else []
    record.notes += continue_loggers(loggers, checkpoint.step if checkpoint else 0, own) or changed
    record.machine = machine(trainer.strategy.root_device)
    strategy = parallel(trainer.strategy)
    steps = config.trainer.max_steps
    record.notes += strategy.notes(steps) + idle_position(built.shapes) + unchosen(built.shapes, steps)
    record.notes += unaveraged(theirs, steps)
    record.notes += compile_notes(built.shapes, config.trainer.compile)
    seed_everything_else(config.seed, strategy.dp_rank(trainer.global_rank))
    module = build_module(built) if seat is None else seat.build_module(built)
    record.stacked = seat.size if seat else None
    if world().rank == 0:
        _look_ahead(built, module, trainer.strategy.root_device, record)
    meter.begin()
    if checkpoint and not own and (trunk := trunk_of(config)):
        module.convert = partial(_insert, Fork(trunk, built), strategy, record)
    try:
        trainer.fit(module, datamodule=task, ckpt_path=checkpoint.path if checkpoint else None, weights_only=True)
        if checkpoint and checkpoint.step >= steps:
            begin_and_end(trainer, module)
        record.metrics, record.evaluated = evaluate(trainer, module, task), module.evaluated
        record.last = module.last
        _look_back(built, trainer, module, folder, record)
        with noted("counting the traffic", record.notes):
            traffic.gather(trainer)
    finally:
        end_profile(trainer.profiler)  # type: ignore[attr-defined]  # else torch's goes on in the process
        meter.measured(cost, trainer.global_step)
        if seat is not None:
            seat.leave_out(cost)
        record.notes += [f"{axis} was not watched: {why}" for axis, why in mechanisms.failures.items()]
        record.mechanism = mechanisms.values
        with noted("what is told of traffic and parameters", record.notes):
            record.communication = traffic.communication
            record.mechanism = mechanisms.values | traffic.mechanism(trainer)
            record.parameter_groups = [group for each in trainer.optimizers for group in describe_groups(each)]


def _look_ahead(built: BuiltRun, module: TrainingModule, device: torch.device, record: Record) -> None:
    """Ask the model as a whole about itself, while it has its initial values."""
    record.responses = {name: [] for name in FUNCTION}
    with noted("asking the model for its function", record.notes):
        record.responses = function_responses(built, module.model, device)


def _insert(fork: Fork, strategy: Parallel, record: Record, checkpoint: StateDict, model: Transformer) -> None:
    if not strategy.holds_all or strategy.remembers:
        raise UserError(
            "continue_from: components are inserted into whole models, of whose parameters the strategy remembers "
            "nothing: use strategy=single or strategy=ddp"
        )
    record.notes.append(fork.insert(checkpoint, model))


def _look_back(built: BuiltRun, trainer: Trainer, module: TrainingModule, folder: Path, record: Record) -> None:
    """Ask the trained model about itself. The metrics are there: what fails from here on is noted, and no more."""
    record.responses["schedule"] = _trace(module.learning_rates)
    with noted("asking the model about itself", record.notes):
        module.model = parallel(trainer.strategy).full_model(module.model, built.build_model)
        with noted("drawing pictures", record.notes):
            record.pictures = leave_pictures(trainer, module, built.task, folder)
        record.responses |= probe_outputs(module.model)


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
        record.origin = found.sha256 if found else None
    return found


def _trace(rates: list[float]) -> list[float]:
    """The curve of the learning rate in a few numbers that no other curve of its length has by chance."""
    return [sum(rates), sum(rate * rate for rate in rates), sum(step * rate for step, rate in enumerate(rates))]
