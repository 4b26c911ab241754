"""Every option of every axis, as the folders of conf/ list them: it composes, trains, stays causal, and differs."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from ablab.config import AXES, RunConfig, conf_folder
from ablab.model.transformer import Transformer
from ablab.results.record import Record
from ablab.study.supervision.supervisor import supervise
from ablab.tasks.base import Inputs, Task
from ablab.training.generation import load_run

Trained = tuple[Record, Transformer, Task]
NO_AXES = {"recipe", "study", "design"}  # whole configs, not options of one axis
FOLDERS = sorted(path.name for path in conf_folder().iterdir() if path.is_dir() and path.name not in NO_AXES)
OPTIONS = [(axis, path.stem) for axis in FOLDERS for path in sorted((conf_folder() / axis).glob("*.yaml"))]
BASELINE = {
    axis: option
    for entry in OmegaConf.load(conf_folder() / "config.yaml").defaults
    if not isinstance(entry, str)
    for axis, option in entry.items()
}
# The task whose runs an axis makes a difference to, where it is not every task.
TASK_OF = {"modal_fusion": "spoken_arithmetic"}
SAME_RESULT = {
    "strategy",
    "trainer",
    "logger",
    "callbacks",
}  # axes that say how a run is run and shown, not what it computes

SLOW = {*(("strategy", option) for option in ("ddp", "fsdp", "tensor", "hybrid")), ("logger", "mlflow")}
DEVICES = {("strategy", "hybrid"): 4}  # where the default is too few
# Packages that an option needs and a development environment need not have.
OPTIONAL = {("logger", "mlflow"): ("mlflow", "sqlalchemy", "alembic"), ("logger", "aim"): ("aim",)}

# Long enough for the windows and buckets that the options come with to leave something out.
LENGTH = 256
SETTINGS = (
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "model.n_layers=2",  # one leaves nothing to fuse
)


@pytest.fixture(scope="module")
def train(
    tiny_config: Callable[..., RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Trained]:
    met: dict[str, tuple[Record, Path]] = {}  # the default option of most axes makes one and the same run

    def make(axis: str, option: str) -> Trained:
        task = option if axis == "task" else TASK_OF.get(axis, "text")
        long = (
            [f"task.seq_len={LENGTH}"] if "seq_len" in OmegaConf.load(conf_folder() / "task" / f"{task}.yaml") else []
        )
        devices = [f"trainer.devices={DEVICES[axis, option]}"] if (axis, option) in DEVICES else []
        config = tiny_config(
            *SETTINGS, *long, f"task={task}", *([] if axis == "task" else [f"{axis}={option}"]), *devices
        )
        identity = json.dumps(config.to_dict(), sort_keys=True)
        if identity not in met:
            folder = tmp_path_factory.mktemp("run")
            if config.processes > 1:
                met[identity] = supervise(config, folder, lambda step, steps, shown: None), folder
            else:
                met[identity] = run(config, folder), folder
        record, folder = met[identity]
        assert (record.status, record.reason) == ("ok", None)
        return record, *load_run(folder, "last")

    return make


@pytest.fixture(scope="module")
def baseline(train: Callable[..., Trained]) -> Callable[[str], Trained]:
    """The same two steps with the default option of an axis: as it is, except that it has its own task's text."""
    return functools.cache(lambda axis: train(axis, BASELINE[axis]))


def inputs(task: Task) -> Inputs:
    """Random ones, without padding, in the shape of the task's example."""
    generator = torch.Generator().manual_seed(1)
    example, _ = task.example()
    if isinstance(example, Tensor):
        ids = torch.randint(task.vocab_size - 1, example.shape, generator=generator)
        return ids + (task.padding == 0)
    return {
        name: torch.randn(content.shape, generator=generator) if content.is_floating_point() else content
        for name, content in example.items()
    }


def test_every_folder_of_options_is_an_axis_with_a_default() -> None:
    assert sorted(AXES) == FOLDERS
    assert {axis: (axis, BASELINE[axis]) in OPTIONS for axis in FOLDERS} == dict.fromkeys(FOLDERS, True)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's, by a later SQLAlchemy
@pytest.mark.parametrize(
    ("axis", "option"),
    [pytest.param(*o, marks=pytest.mark.slow if o in SLOW else ()) for o in OPTIONS],
)
def test_option(
    axis: str,
    option: str,
    train: Callable[..., Trained],
    baseline: Callable[[str], Trained],
) -> None:
    for package in OPTIONAL.get((axis, option), ()):
        pytest.importorskip(package, reason=f"see conf/{axis}/{option}.yaml")
    record, model, task = train(axis, option)

    assert record.axes[axis] == option
    assert record.cost.steps == 2
    assert "val_loss" in record.metrics
    assert all(map(math.isfinite, (record.metrics | record.mechanism).values()))

    if task.causal:
        with torch.no_grad():
            _check_causal(model.double(), task)
    _check_gradients(model.float().train(), task)
    model.eval()

    if axis not in SAME_RESULT and option != BASELINE[axis]:
        _, other, usual = baseline(axis)
        with torch.no_grad():
            own, theirs = model(inputs(task)), other(inputs(usual))
            assert own.shape != theirs.shape or not torch.allclose(own, theirs, rtol=0, atol=1e-6)


def _check_causal(model: Transformer, task: Task) -> None:
    ids = inputs(task)
    assert isinstance(ids, Tensor)
    before, length = model(ids), ids.shape[1]
    assert before.isfinite().all()
    for place in (1, length // 2, length - 1):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 1) % model.vocab_size
        after = model(changed)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, place], before[:, place], rtol=0, atol=1e-9)


def _check_gradients(model: Transformer, task: Task) -> None:
    (model(inputs(task), targets=task.example()[1]).square().sum() + model.penalty()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("key.bias"):  # a constant in the scores of a query cancels in its softmax
            assert parameter.grad.any(), name
