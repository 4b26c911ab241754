"""Evaluate a trained run on another task than its own: at another length, on another corpus. Nothing is trained.

It is evaluated as every run is at its end, by the same module and by Lightning's Trainer, in one process whatever the
strategy of its training, and with its own precision.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import MISSING

from ablab.config import AXES, Node, RunConfig
from ablab.config.redact import redact
from ablab.config.signature import check_signature, with_floats
from ablab.errors import UserError, one_line
from ablab.results.evaluation import CHECKPOINT, Evaluation, evaluation_name, is_name
from ablab.results.record import Record
from ablab.tasks.base import Task
from ablab.training.begin import now
from ablab.training.evaluation_data import Tasks, refuse_seen
from ablab.training.failures import describe, ended_itself
from ablab.training.module import TrainingModule
from ablab.training.provenance import machine, versions
from ablab.training.restore import SavedRun
from ablab.training.trainer import idle_trainer, leaves_out, quiet_lightning

# Settings of a task that change no metric, and stand in no evaluation's name.
UNNAMED = ("batch_size", "eval_batch_size", "workers", "target")
_VOCABULARY = ("tokenizer", "bpe_vocab_size")
_LIMITS = {"val": "limit_val_batches", "test": "limit_test_batches"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        settings: of the task, by key.
        words: the same as overrides, `task=text` among them, by what is overridden.
        option: the node of another task; None: the run's own.
        checkpoint: "best" or "last".
        accelerator: as `trainer.accelerator`; None: the run's own.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    option: Node | None = None
    checkpoint: str = "best"
    accelerator: str | None = None

    @property
    def name(self) -> str:
        """What the evaluation is called. Raises UserError where a value would be taken for several."""
        named = [word for key, word in self.words.items() if key.removeprefix("task.") not in UNNAMED]
        name = evaluation_name([*named, f"{CHECKPOINT}={self.checkpoint}"])
        if not is_name(name):
            raise UserError(f"{name}: cannot be the name of an evaluation, which has commas between its parts")
        return name

    def task(self, own: Node) -> Node:
        """The config of the task, of that of the run's own.

        Another task is one of as long sequences, unless it is said. Batches of longer sequences hold fewer of them.

        Raises:
            UserError: a setting that the task has not, or of the wrong type, or another tokenizer than the run's.
        """
        if not isinstance(own, dict) or not isinstance(own.get("_target_"), str):
            raise UserError("task: the option has no _target_, the class or function that builds it")
        for key in _VOCABULARY:
            if key in self.settings and self.settings[key] != own.get(key, _BYTES.get(key)):
                raise UserError(
                    f"task.{key}={self.settings[key]}: the run reads by the vocabulary that it was trained with, which "
                    "is applied to other text; leave it out"
                )
        kept = {key: own[key] for key in ("seq_len", *_VOCABULARY) if key in own and key in (self.option or {})}
        node = with_floats(AXES["task"], {**(self.option or own), **kept, **self.settings})
        if missing := [key for key, value in node.items() if value == MISSING]:
            raise UserError(f"task.{missing[0]} must be given: add task.{missing[0]}=... to the command")
        check_signature("task", node, AXES["task"].supplied)
        return node if "eval_batch_size" in self.settings else _with_fewer_sequences(node, own.get("seq_len"))


def _with_fewer_sequences(node: Node, before: Any) -> Node:
    """The task with batches that hold no more tokens than those of sequences of the length `before`."""
    length, size = node.get("seq_len"), node.get("eval_batch_size")
    if not (isinstance(length, int) and isinstance(size, int) and isinstance(before, int) and length > before):
        return node
    return {**node, "eval_batch_size": max(1, size * before // length)}


_BYTES = {"tokenizer": "bytes"}  # how tasks without the setting read


def evaluate_run(trained: SavedRun, request: Request, record: Record, tasks: Tasks | None = None) -> Evaluation:
    """Evaluate a trained run as asked for; nothing is written.

    Args:
        record: of the run.
        tasks: gives the data; None: they are read for this evaluation alone.

    Raises:
        UserError: the run's model or vocabulary cannot be used there, or the data or the device cannot be had.
        KeyboardInterrupt: Ctrl-C.
    """
    own = trained.config.options["task"]
    node = request.task(own)
    _check_batches(trained.config, request)
    task = (tasks or Tasks())(trained, node)
    refuse_seen(own, node, task, record)
    module = TrainingModule(trained.model_for(task), task, _never, _never)
    trainer = _trainer(trained.config, task, request.accelerator)
    began = time.perf_counter()
    with quiet_lightning():
        _measured(trainer, module, task)
    return Evaluation(
        name=request.name,
        fingerprint=record.fingerprint,
        checkpoint=request.checkpoint,
        step=trained.step,
        task=redact({"task": node})["task"],
        primary=task.primary,
        metrics=module.metrics,
        evaluated=module.evaluated,
        corpus=task.corpus,
        oracle=task.oracle,
        time_s=time.perf_counter() - began,
        machine=machine(trainer.strategy.root_device),
        versions=versions(),
        finished_at=now(),
    )


def _check_batches(config: RunConfig, request: Request) -> None:
    """Raises UserError where other batches, which change no evaluation's name, would hold other samples."""
    given = {key: config.options["trainer"].get(key) for key in _LIMITS.values()}
    limits = {key: value for key, value in given.items() if leaves_out(value)}
    if (size := request.settings.get("eval_batch_size")) is not None and limits:
        key, value = limits.popitem()
        raise UserError(f"task.eval_batch_size={size}: the run has trainer.{key}={value}, of its batches: leave it out")


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("an evaluation takes no step")


def _trainer(config: RunConfig, task: Task, accelerator: str | None) -> Trainer:
    """A Trainer that evaluates as the run's own did, on one device. Of the run's settings only a few are looked at.

    A limit of its batches would leave out whole subsets, and is none where the task has them.
    """
    keys = [key for split, key in _LIMITS.items() if len(task.subsets(split)) == 1]
    limits = {key: value for key in keys if isinstance(value := config.options["trainer"].get(key), int | float)}
    settings: Node = {
        "accelerator": accelerator or config.trainer.accelerator,
        "precision": config.trainer.precision or "32-true",
        **limits,
    }
    asked = replace(config, options={**config.options, "trainer": settings})
    try:
        return idle_trainer(asked, "auto", devices=1)
    except Exception as error:  # of whatever an accelerator or a precision needs
        raise UserError(
            f"trainer.accelerator={settings['accelerator']}: {one_line(error)}; trainer.accelerator=cpu evaluates there"
        ) from error


def _measured(trainer: Trainer, module: TrainingModule, task: Task) -> None:
    """Have the module evaluated on the validation split, and on that for tests where there is one.

    Raises:
        UserError: it cannot be, as for want of memory.
        KeyboardInterrupt: Ctrl-C, in whose place Lightning exits and lets the next one go unheard.
    """
    try:
        with _handler_kept():
            trainer.validate(module, datamodule=task, verbose=False)
            if task.test_dataloader():
                trainer.test(module, datamodule=task, verbose=False)
    except SystemExit as ended:
        if ended_itself(ended):
            raise UserError(f"the evaluation ended itself ({one_line(ended)})") from ended
        raise KeyboardInterrupt from ended
    except (MisconfigurationException, RuntimeError, ValueError, MemoryError, ArithmeticError) as error:
        raise UserError(f"cannot be evaluated ({describe(error)})") from error


@contextlib.contextmanager
def _handler_kept() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, TypeError):  # not in the main thread; a handler that is not Python's
            signal.signal(signal.SIGINT, before)
