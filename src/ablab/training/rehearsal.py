"""A run tried on one sample before its first step: forward, backward, metrics, and what components tell of themselves.

What a component gets wrong only when it is asked about at the end, `visited` say, would otherwise be found when all its
steps have been paid for. Nothing of it is left behind: neither in the model, nor in the generators of random numbers.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor

from ablab.config import RunConfig
from ablab.config.axes import AXES
from ablab.errors import UserError, one_line
from ablab.model.mechanism import MechanismProbe, probe_outputs
from ablab.model.protocols import Measured, offering
from ablab.model.transformer import Transformer
from ablab.tasks.base import Batch, Task
from ablab.training.build import BuiltRun, build_strategy
from ablab.training.callback_group import check_monitors, check_setup, has_setup
from ablab.training.compile import try_compiled
from ablab.training.cost import count_parameters, one_sample, without_trace
from ablab.training.module import TrainingModule
from ablab.training.trainer import idle_trainer

MOST_PARAMETERS = 50_000_000  # of a model that is tried as a whole; of a larger one, fewer layers
FEWEST_LAYERS = 2
LONGEST = 2048  # tokens of the sample; attention over many more would take memory that only the run's device has

# What says that a component is not written as it is called, on whichever device.
_MISWRITTEN = (AttributeError, TypeError, NotImplementedError, NameError)


def rehearse(built: BuiltRun, *, keep_model: bool = False) -> set[str] | None:
    """Try the run on one of its training samples, and return the names of the metrics that it will have.

    None where that cannot be told: a run on a GPU is tried on the CPU all the same, and need not work there.

    Args:
        keep_model: leave the model that is built for it to whoever asks `built` for one next.

    Raises:
        UserError: it fails; the message names the option, and where.
    """
    config, task = built.config, built.task
    _check_weights(built)
    stage = "forward and backward"
    with without_trace(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself shows them
        try:
            model = _model_of(built, keep_model)
            batch = _cropped(one_sample(task))
            _check_memory(built, _train(model, task, batch))
            stage = "what it tells of itself"
            return _evaluate(model, task, batch)
        except UserError:
            raise
        except Exception as error:
            if _on_gpu(config) and not isinstance(error, _MISWRITTEN):
                return None  # on a CPU, where a kernel for GPUs need not work
            raise UserError(_told(config, error, stage)) from error


def rehearse_compiled(built: BuiltRun) -> None:
    """Try what `trainer.compile` has to do with the run, if it is set.

    Raises:
        UserError: a component, or the run, cannot be compiled.
    """
    config, task = built.config, built.task
    if not config.trainer.compile:
        return
    with without_trace(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _model_of(replace(built), keep_model=False)  # without the model that is left for the run
        try:
            try_compiled(model, _cropped(one_sample(task)), config.trainer.compile)
        except UserError as error:
            if error.__cause__ is None or not _on_gpu(config):  # what fails on a CPU need not fail on a GPU
                raise
        except Exception as error:
            if not _on_gpu(config):
                raise UserError(_told(config, error, "torch.compile")) from error


def rehearse_callbacks(built: BuiltRun, metrics: Collection[str] | None) -> None:
    """Look at what the callbacks of a run watch for, and set them up as Lightning does before the first step.

    Args:
        metrics: the names of those that the run will have; None: they are not known.

    Raises:
        UserError: one watches for what is never there, or cannot be set up; the message names it.
    """
    config, nodes = built.config, built.config.options["callbacks"]
    check_monitors(nodes, metrics)
    if not has_setup(nodes):
        return

    def trainer_of(callbacks: list[Callback]) -> Trainer:
        more = {"callbacks": callbacks, "logger": [DummyLogger()], "enable_checkpointing": True}
        return idle_trainer(config, build_strategy(config), **more)

    fresh = replace(built)  # without the model that is left for the run
    with without_trace(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = TrainingModule(_model_of(fresh, keep_model=False), built.task, built.optimizer, built.schedule)
        check_setup(nodes, module, trainer_of)


def _model_of(built: BuiltRun, keep_model: bool) -> Transformer:
    layers = built.config.options["model"].get("n_layers")
    if isinstance(layers, int) and layers > FEWEST_LAYERS and count_parameters(built.shapes) > MOST_PARAMETERS:
        smaller = built.config.with_values({"model.n_layers": FEWEST_LAYERS})
        return replace(built, config=smaller).build_model()
    model = built.build_model()
    if not keep_model:
        return model
    try:
        tried = copy.deepcopy(model)
    except Exception:  # of what somebody's component holds
        return model
    built.offer(model)
    return tried


def _cropped(batch: Batch) -> Batch:
    inputs, targets = batch
    if not isinstance(inputs, Tensor) or inputs.shape[1] <= LONGEST:
        return batch
    return inputs[:, :LONGEST], targets if targets.shape[1] == 1 else targets[:, :LONGEST]


def _train(model: Transformer, task: Task, batch: Batch) -> int:
    """A step; how many bytes autograd has to keep for the sample, parameters aside."""
    inputs, targets = batch
    kept = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        size = tensor.untyped_storage().nbytes() if tensor.is_floating_point() else 0  # masks are of all samples
        kept.setdefault(tensor.untyped_storage().data_ptr(), size)
        return tensor

    model.train()
    model.resample(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.loss(model(inputs, targets=targets), targets) + model.penalty()
    loss.backward()
    return sum(kept.values())


def _check_weights(built: BuiltRun) -> None:
    """Raises UserError for a model that this machine cannot hold with its gradients, before any of it is made."""
    count, has = count_parameters(built.shapes), psutil.virtual_memory().total
    size = 2 * sum(each.nbytes for each in built.shapes.parameters() if each.requires_grad)
    if size > has and not _on_gpu(built.config):
        raise UserError(
            f"model: {count:,} parameters and their gradients take {size / 2**30:,.0f} GiB, and this machine has "
            f"{has / 2**30:.0f} GiB: make it smaller, in model.d_model or model.n_layers say"
        )


def _check_memory(built: BuiltRun, of_one: int) -> None:
    """Raises UserError where a batch has no room in the memory of this machine, which the run would fill up and die."""
    size, has = of_one * built.task.batch_size, psutil.virtual_memory().total
    if size > has and not _on_gpu(built.config):
        raise UserError(
            f"task.batch_size={built.task.batch_size}: a training step keeps about {size / 2**30:.0f} GiB, and this "
            f"machine has {has / 2**30:.0f} GiB: give a smaller one, with trainer.accumulate_grad_batches"
        )


def _evaluate(model: Transformer, task: Task, batch: Batch) -> set[str]:
    inputs, targets = batch
    probe = MechanismProbe(model, pictured=True, strict=True)
    probe.attach()
    with torch.no_grad():
        totals = {
            name: float(value) for name, value in task.totals(model.eval()(inputs, targets=targets), targets).items()
        }
    probe.detach()
    _check_numbers(model)
    mechanism = probe.metrics()
    probe.pictures()
    probe_outputs(model)
    return {*mechanism, *_metrics(task, totals)}


def _check_numbers(model: Transformer) -> None:
    for _, module in offering(model, Measured):
        for name, value in module.mechanism().items():
            if not isinstance(value, int | float):
                which = type(module).__name__
                raise TypeError(f"{which}.mechanism() gives {name} as {type(value).__name__}, not as a number")


def _metrics(task: Task, totals: Mapping[str, float]) -> Iterator[str]:
    """The names of the metrics of each split."""
    for split in ("val", "test") if task.test_dataloader() else ("val",):
        of_each = {subset: dict(totals) for subset in task.subsets(split)}
        yield from (f"{split}_{name}" for name in task.evaluation_metrics(of_each))


def _on_gpu(config: RunConfig) -> bool:
    return torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu", "cuda")


def _told(config: RunConfig, error: Exception, stage: str) -> str:
    """Which option fails, how and where: the last place in the code of an option, else the last of all."""
    modules = {
        str(node["_target_"]).rpartition(".")[0]: config.chosen(axis)
        for axis, node in config.options.items()
        if not AXES[axis].several and "_target_" in node
    }
    place, named = "", "the model"
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        whose = {str(frame.f_globals.get("__name__")), type(frame.f_locals.get("self")).__module__}
        found = next((option for module, option in modules.items() if module in whose), None)
        if found or not place:
            named = found or named
            place = f"{Path(frame.f_code.co_filename).name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"{named} fails when tried on one sample, in {stage}: {type(error).__name__}: {one_line(error)} ({place})"
