"""The trained model of a run and its task, made anew from the run's folder or from what was exported of it.

Generation, exports and Python's `run.model()` get them here, and so by the same rules of what a folder may name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablab.config import RunConfig
from ablab.config.axes import called_by
from ablab.config.trust import admit
from ablab.errors import UserError, one_line
from ablab.model.transformer import Transformer
from ablab.results.run_folder import read_config
from ablab.results.store import CONFIG_FILE
from ablab.tasks.base import Task
from ablab.training.build import build_model, build_option
from ablab.training.checkpoint_folders import find_checkpoint, read_checkpoint

_MODEL = "model."  # how the names of its weights begin in a checkpoint
DAMAGE = (RuntimeError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model, in evaluation mode, with what it was made of.

    Attributes:
        folder: of the run.
        checkpoint: "best" or "last".
        task: without its data; it encodes and decodes.
        remembered: of the task: its vocabulary, and what else the model is built by.
        step: optimizer steps that were taken until then.
    """

    folder: Path
    checkpoint: str
    config: RunConfig
    model: Transformer
    task: Task
    remembered: Mapping[str, Any]
    step: int


def load_run(run: Path, checkpoint: str = "best", trust: bool = False, device: str = "cpu") -> tuple[Transformer, Task]:
    """The trained model of a run, in evaluation mode, and its task, without the task's data.

    Arguments and errors are those of `restore`.
    """
    trained = restore(run, checkpoint, trust, device)
    return trained.model, trained.task


def restore(run: Path, checkpoint: str = "best", trust: bool = False, device: str = "cpu") -> Trained:
    """The model of a run as a checkpoint has it.

    Args:
        checkpoint: "best" or "last".
        trust: components that the run's config names and that are not ablab's may run.

    Raises:
        UserError: the folder holds no run, or the run has no such checkpoint, or the checkpoint is damaged, or the run
            has a component of somebody's and `trust` is not given.
    """
    path = find_checkpoint(run, checkpoint)
    config = read_config(run)
    admit_model(config, run / CONFIG_FILE, trust)
    state = read_checkpoint(path)
    try:
        saved = state["state_dict"].items()
        weights = {key.removeprefix(_MODEL): each for key, each in saved if key.startswith(_MODEL)}
        task: Task = build_option(config, "task", seed=config.seed)
        remembered = state.get(type(task).__qualname__, {})  # absent where a task has nothing to remember
        model = rebuild(config, task, remembered, lambda model: model.load_state_dict(weights))
        step = int(state["global_step"])
    except DAMAGE as error:
        reason = one_line(error)
        raise UserError(f"{path}: a damaged checkpoint, or one of another run ({reason})") from error
    return Trained(
        folder=run,
        checkpoint=checkpoint,
        config=config,
        model=model.to(device),
        task=task,
        remembered=remembered,
        step=step,
    )


def admit_model(config: RunConfig, source: Path, trust: bool) -> None:
    """Let the task and the model of a config that was read from `source` be built, or raise UserError."""
    built = ("task", "model", *(axis.name for axis in called_by("model", "multimodal")))
    admit([{axis: config.options.get(axis) for axis in built}], source, trust)


def rebuild(
    config: RunConfig, task: Task, remembered: Mapping[str, Any], fill: Callable[[Transformer], object]
) -> Transformer:
    """The model for a task, in evaluation mode.

    Args:
        remembered: what the task is given back.
        fill: puts weights into the model.

    Raises:
        RuntimeError, ValueError, KeyError, TypeError, AttributeError: they are not those of this config.
    """
    task.load_state_dict(dict(remembered))
    model = build_model(config, task)
    fill(model)
    return model.eval()
