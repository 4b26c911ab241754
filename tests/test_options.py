"""Every option of every axis, as the folders of conf/ list them: it composes, learns, stays causal, and differs.

Options of models, optimizers and schedules learn here without a run around them; `training/test_joint_runs.py` has runs
of all of them.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from ablab.config import AXES, RunConfig, conf_folder
from ablab.config.axes import called_by
from ablab.model.transformer import Transformer
from ablab.results.record import FUNCTION, Record
from ablab.study.supervision.supervisor import supervise
from ablab.tasks.base import Inputs, Task
from ablab.training.build import BuiltRun
from ablab.training.function_probe import function_responses
from ablab.training.generation import load_run
from ablab.training.optimizers.groups import build_optimizer

pytestmark = pytest.mark.usefixtures("_costs_are_known")

NO_AXES = {"recipe", "study", "design"}  # whole configs, not options of one axis
FOLDERS = sorted(path.name for path in conf_folder().iterdir() if path.is_dir() and path.name not in NO_AXES)
OPTIONS = [(axis, path.stem) for axis in FOLDERS for path in sorted((conf_folder() / axis).glob("*.yaml"))]
BASELINE = {
    axis: option
    for entry in OmegaConf.load(conf_folder() / "config.yaml").defaults
    if not isinstance(entry, str)
    for axis, option in entry.items()
}
# Axes of which one run has an option each: of all parts of a model, and of what trains it.
JOINT = {axis.name for axis in called_by("model")} | {"optimizer", "schedule"}
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
LENGTH = {"attention": 256}
SETTINGS = (
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "model.n_layers=2",  # one leaves nothing to fuse
)


@dataclass(frozen=True)
class Learned:
    """A model that has learned, and its task; to be copied before it is changed."""

    model: Transformer
    task: Task

    @cached_property
    def output(self) -> Tensor:
        """What it makes of random inputs."""
        with torch.no_grad():
            made: Tensor = self.model(inputs(self.task))
        return made


@pytest.fixture(scope="module")
def config_of(tiny_config: Callable[..., RunConfig]) -> Callable[[str, str], RunConfig]:
    def make(axis: str, option: str) -> RunConfig:
        task = option if axis == "task" else TASK_OF.get(axis, "text")
        long = "seq_len" in OmegaConf.load(conf_folder() / "task" / f"{task}.yaml")
        words = [
            *([f"task.seq_len={LENGTH.get(axis, 64)}"] if long else []),
            *([f"trainer.devices={DEVICES[axis, option]}"] if (axis, option) in DEVICES else []),
            *([f"{axis}={option}"] if axis != "task" else []),
        ]
        return tiny_config(*SETTINGS, f"task={task}", *words)

    return make


@pytest.fixture(scope="module")
def learned(
    config_of: Callable[[str, str], RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], Learned]:
    """learned(axis, option): what two steps with it have made of the model; the default of many axes is one and the
    same."""
    met: dict[str, Learned] = {}

    def make(axis: str, option: str) -> Learned:
        config = config_of(axis, option)
        identity = json.dumps(config.to_dict() | {"overrides": None}, sort_keys=True)
        if identity not in met:
            met[identity] = train(config) if axis in JOINT else after_a_run(config, tmp_path_factory.mktemp("run"), run)
        return met[identity]

    return make


def train(config: RunConfig) -> Learned:
    """Take the steps of a run, and nothing else of it; its model has what a checkpoint would."""
    built = BuiltRun.of(config)
    model, task = built.build_model().train(), built.task
    assert all(function_responses(built, model, torch.device("cpu")).values())
    optimizer = build_optimizer(built.optimizer, model)
    schedule = built.schedule(optimizer)
    getattr(optimizer, "train", lambda: None)()
    for step, (inputs, targets) in zip(range(config.trainer.max_steps), task.train_dataloader(), strict=False):
        model.resample(step)
        (task.loss(model(inputs, targets=targets), targets) + model.penalty()).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        model.after_step()
    getattr(optimizer, "eval", lambda: None)()
    again = built.build_model()
    again.load_state_dict(model.state_dict())
    return Learned(again.eval(), task)


def after_a_run(config: RunConfig, folder: Path, run: Callable[[RunConfig, Path], Record]) -> Learned:
    """Hold a run to what its record has to say, and return its last checkpoint."""
    record = supervise(config, folder, lambda *_: None) if config.processes > 1 else run(config, folder)
    assert (record.status, record.reason) == ("ok", None)
    assert record.axes == config.axes
    assert record.cost.steps == 2
    assert "val_loss" in record.metrics
    assert all(map(math.isfinite, (record.metrics | record.mechanism).values()))
    assert all(record.responses[name] for name in FUNCTION)
    return Learned(*load_run(folder, "last"))


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
    learned: Callable[[str, str], Learned],
) -> None:
    for package in OPTIONAL.get((axis, option), ()):
        pytest.importorskip(package, reason=f"see conf/{axis}/{option}.yaml")
    own = learned(axis, option)
    model, task = copy.deepcopy(own.model), own.task

    if task.causal:
        with torch.no_grad():
            _check_causal(model.double(), task)
    _check_gradients(model.float().train(), task)

    if axis not in SAME_RESULT and option != BASELINE[axis]:
        usual = learned(axis, BASELINE[axis]).output
        assert own.output.shape != usual.shape or not torch.allclose(own.output, usual, rtol=0, atol=1e-6)


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
