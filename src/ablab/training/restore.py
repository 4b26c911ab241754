"""The trained model of a run and its task, made anew from the run's folder or from what was exported of it.

Generation, exports, evaluations elsewhere and Python's `run.model()` get them here, and so by the same rules of what a
folder may name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim.optimizer import StateDict

from ablab.config import RunConfig
from ablab.config.axes import AXES, called_by
from ablab.config.trust import admit
from ablab.errors import UserError, one_line
from ablab.model.transformer import Transformer
from ablab.results.run_folder import read_config
from ablab.results.store import CONFIG_FILE
from ablab.tasks.base import Task
from ablab.training.build_model import build_model
from ablab.training.build_option import build_option
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


def moved(model: Transformer, device: str) -> Transformer:
    """The model on a device. Raises UserError where torch has none of that name, or no room is left there."""
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # the latter of a torch that is built without
        raise UserError(f"device={device}: {one_line(error)}") from error


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
            has a component of somebody's and `trust` is not given, or there is no such device.
    """
    saved = SavedRun.open(run, checkpoint, trust)
    return Trained(
        folder=run,
        checkpoint=checkpoint,
        config=saved.config,
        model=moved(saved.model_for(saved.task), device),
        task=saved.task,
        remembered=saved.vocabulary(saved.task),
        step=saved.step,
    )


@dataclass(frozen=True)
class SavedRun:
    """A run as a checkpoint has it: config, weights, and the task that it learned, without the task's data.

    Attributes:
        path: of the checkpoint.
        state: what is in it.
    """

    config: RunConfig
    path: Path
    state: StateDict

    @classmethod
    def open(cls, run: Path, checkpoint: str, trust: bool = False) -> SavedRun:
        """Read config and checkpoint of the run in a folder.

        Args:
            checkpoint: "best" or "last".
            trust: components that the run's config names and that are not ablab's may run.

        Raises:
            UserError: the folder holds no run, or the run has no such checkpoint, or it is damaged, or the run has a
                component of somebody's and `trust` is not given.
        """
        path = find_checkpoint(run, checkpoint)
        config = read_config(run)
        admit_model(config, run / CONFIG_FILE, trust)
        return cls(config, path, read_checkpoint(path))

    @property
    def step(self) -> int:
        """Optimizer steps that its weights have taken."""
        step = self.state.get("global_step")
        if type(step) is not int:
            raise UserError(f"{self.path}: a damaged checkpoint (global_step={step!r:.40})")
        return step

    @cached_property
    def task(self) -> Task:
        """The task that it learned, without data."""
        task: Task = build_option(self.config, "task", seed=self.config.seed)
        try:
            task.load_state_dict(self.vocabulary(task))
        except DAMAGE as error:
            raise self._damaged(error) from error
        return task

    def vocabulary(self, task: Task) -> Any:
        """What the task has left in the checkpoint; nothing where it has nothing to remember."""
        return self.state.get(type(task).__qualname__, {})

    def model_for(self, task: Task) -> Transformer:
        """The trained model, in evaluation mode, made for the lengths of `task` where those are longer than its own.

        Weights are the run's; tables and masks that follow from the length are made anew.

        Raises:
            UserError: an option's weights were learned for shorter sequences, or the checkpoint is damaged.
        """
        model = build_model(self.config, task, max_length=self.task.max_length)
        try:
            weights = self._weights()
            self._refuse_short(model, weights, task)
            model.load_state_dict(weights)
        except DAMAGE as error:
            raise self._damaged(error) from error
        return model.eval()

    def _weights(self) -> dict[str, Tensor]:
        whole: dict[str, Tensor] = self.state["state_dict"]
        return {key.removeprefix(_MODEL): value for key, value in whole.items() if key.startswith(_MODEL)}

    def _refuse_short(self, model: Transformer, weights: dict[str, Tensor], task: Task) -> None:
        """Raise UserError for the first weight that has another shape where sequences are longer."""
        if task.max_length <= self.task.max_length:
            return
        for name, wanted in model.state_dict().items():
            if name in weights and weights[name].shape != wanted.shape:
                option = next((self.config.chosen(part) for part in reversed(name.split(".")) if part in AXES), name)
                raise UserError(
                    f"{option}: its weights ({name}) are for {self.task.max_length} tokens, and "
                    f"task.seq_len={task.seq_len} needs {task.max_length}: evaluate it on no more, or train a run there"
                )

    def _damaged(self, error: BaseException) -> UserError:
        return UserError(f"{self.path}: a damaged checkpoint, or one of another run ({one_line(error)})")


def admit_model(config: RunConfig, source: Path, trust: bool) -> None:
    """Let the task and the model of a config that was read from `source` be built, or raise UserError."""
    built = ("task", "model", "parametrisation", *(axis.name for axis in called_by("model", "multimodal")))
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
