"""The data of an evaluation: another task, read by what the run has learned, or refused if it has not learned that."""

from __future__ import annotations

import json
import os
from dataclasses import replace

from ablab.config import Node
from ablab.errors import UserError, one_line
from ablab.results.record import Corpus, Record
from ablab.tasks.base import Task
from ablab.tasks.language import LanguageTask
from ablab.training.build_option import build_option
from ablab.training.restore import SavedRun

_CUT_BY = ("val_split", "val_fraction", "test_fraction")  # where validation is cut off what is trained on


class Tasks:
    """The tasks of evaluations with their data, which are read once for all evaluations that share them."""

    def __init__(self) -> None:
        self._last: tuple[str, Task] | None = None

    def __call__(self, trained: SavedRun, node: Node) -> Task:
        """The task of a config, read by the vocabulary of the run.

        Raises:
            UserError: data are missing or of other tokens, or its answers are not those of the run's own task.
        """
        identity = json.dumps([node, trained.config.seed, repr(trained.vocabulary(trained.task))], sort_keys=True)
        if self._last is None or self._last[0] != identity:
            self._last = identity, _build(trained, node)
        return self._last[1]


def _build(trained: SavedRun, node: Node) -> Task:
    config = replace(trained.config, options={**trained.config.options, "task": node})
    task: Task = build_option(config, "task", seed=config.seed)
    own = trained.task
    both_text = isinstance(task, LanguageTask) and isinstance(own, LanguageTask)
    if not (both_text or isinstance(task, type(own)) or isinstance(own, type(task))):
        raise UserError(
            f"task: {type(task).__name__} asks for other answers than {trained.config.chosen('task')}, which the run "
            "has learned; it can be evaluated on other data and lengths of what it has learned"
        )
    try:
        task.keep_vocabulary(trained.vocabulary(own))
        task.setup("validate")
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise UserError(f"task: cannot be read by the vocabulary of the run ({one_line(error)})") from error
    _check_answers(own, task)
    return task


def _check_answers(own: Task, task: Task) -> None:
    """Raises UserError where the model of the run cannot be asked what the task asks."""
    for name in ("vocab_size", "n_outputs", "padding", "pooled", "causal"):
        mine, asked = getattr(own, name), getattr(task, name)
        if mine != asked:
            raise UserError(
                f"task: has {name}={asked}, and the run was trained with {name}={mine}; keep what decides it"
            )
    shapes = [{name: (each.vocab_size, each.features) for name, each in of.modalities.items()} for of in (own, task)]
    if shapes[0] != shapes[1]:
        raise UserError("task: has other modalities than the run was trained with; keep what decides them")


def refuse_seen(own: Node, node: Node, task: Task, record: Record) -> None:
    """Raises UserError where the data of the run are cut up in another way: it would be asked what it has seen."""
    if record.corpus is None or not _are_same(record.corpus, task.corpus):
        return
    if key := _asks_again(own, node):
        before, now = ("null" if each[key] is None else each[key] for each in (own, node))
        raise UserError(
            f"task.{key}={now}: the run learned from these data with task.{key}={before}, and would be evaluated on "
            "what it has seen; leave it as it was"
        )


def _are_same(learned: Corpus, asked: Corpus) -> bool:
    """By content or by place: a data set of Hugging Face is hashed as it is cut up, and named with its commit."""
    places = {os.path.realpath(os.path.expanduser(each.name)) for each in (learned, asked)}
    return learned.sha256 == asked.sha256 or len(places) == 1


def _asks_again(own: Node, node: Node) -> str | None:
    """The setting that brings what the run learned from into an evaluation on the same data."""
    learned = own.get("train_split")  # by name, of tasks whose data are split already
    for key in ("val_split", "test_split"):
        if learned is not None and node.get(key) == learned:
            return key
    if node.get("val_split") is not None or node.get("train_split") != learned:
        return None
    return next((key for key in _CUT_BY if key in own and key in node and own[key] != node[key]), None)
