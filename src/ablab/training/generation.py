"""Continue a text with the model of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ablab.config.axes import called_by
from ablab.config.trust import admit
from ablab.errors import UserError, one_line
from ablab.model.transformer import Transformer
from ablab.results.run_folder import read_config
from ablab.results.store import CONFIG_FILE
from ablab.tasks.base import Task
from ablab.training.build import build_model, build_option
from ablab.training.checkpoint_folders import find_checkpoint, read_checkpoint
from ablab.training.continuation import Continuations, ContinuationSettings, Prompt

_MODEL = "model."  # how the names of its weights begin in a checkpoint


def generate(
    run: Path,
    *,
    prompt: str,
    tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    checkpoint: str = "best",
    trust: bool = False,
) -> str:
    """The prompt and `tokens` more tokens, or what comes before a stop string.

    Args:
        run: folder of a run with a checkpoint.
        temperature, top_k, top_p, seed, stop: as `ContinuationSettings` says.
        checkpoint: "best" or "last".
        trust: components that the run's config names and that are not ablab's may run.

    Raises:
        UserError: no run or checkpoint there, an empty prompt or one that the run's vocabulary cannot write, or a
            number out of range.
    """
    settings = ContinuationSettings(
        tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop
    )
    if not prompt:
        raise UserError("--prompt: must not be empty")
    model, task = load_run(run, checkpoint, trust)
    texts = Continuations(model, task, [Prompt(prompt)], settings)
    return texts.prompts[0] + "".join(piece.text for piece in texts)


def load_run(run: Path, checkpoint: str, trust: bool = False) -> tuple[Transformer, Task]:
    """The trained model of a run, in evaluation mode, and its task, without the task's data.

    Args:
        trust: components that the run's config names and that are not ablab's may run.

    Raises:
        UserError: the folder holds no run, or the run has no such checkpoint, or the checkpoint is damaged, or the run
            has a component of somebody's and `trust` is not given.
    """
    path = find_checkpoint(run, checkpoint)
    config = read_config(run)
    built = ("task", "model", *(axis.name for axis in called_by("model", "multimodal")))
    admit([{axis: config.options.get(axis) for axis in built}], run / CONFIG_FILE, trust)
    state = read_checkpoint(path)
    task: Task = build_option(config, "task", seed=config.seed)
    try:
        task.load_state_dict(state.get(type(task).__qualname__, {}))  # absent where a task has nothing to remember
        model = build_model(config, task)
        model.load_state_dict({key.removeprefix(_MODEL): each for key, each in _weights(state)})
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = one_line(error)
        raise UserError(f"{path}: a damaged checkpoint, or one of another run ({reason})") from error
    return model.eval(), task


def _weights(state: Any) -> list[tuple[str, Tensor]]:
    return [(key, value) for key, value in state["state_dict"].items() if key.startswith(_MODEL)]
