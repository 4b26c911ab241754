"""The group `callbacks`: Lightning's own callbacks or somebody's, beside those that every run has."""

from __future__ import annotations

import difflib
import inspect
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch.optim import Optimizer

from ablab.config import Node
from ablab.config.identity import OBSERVER
from ablab.config.nearest import nearest
from ablab.errors import UserError, named
from ablab.results.store import CHECKPOINT_FOLDER
from ablab.training.checkpoint_files import check_readable
from ablab.training.strategies.base import Parallel, parallel

TRAIN_LOSS = "train_loss"  # what is logged beside an evaluation's metrics

_SLIP = 0.85  # how near a name is to another where it is one

# Callbacks that change what the config says of a run, and what to use instead.
_REFUSED: dict[type[Callback], str] = {
    GradientAccumulationScheduler: "a run's steps are of equal size: use trainer.accumulate_grad_batches",
    BatchSizeFinder: "the size of a batch is the task's, and the same for every variant: use task.batch_size",
    LearningRateFinder: "every variant gets the same grid of rates, on seeds of its own: use tune.lr=[...]",
    StochasticWeightAveraging: "it counts epochs, and a run has none: use callbacks=weight_averaging",
}


# Settings of Lightning's callbacks by which they wait for the end of an epoch, which a run has at its own end alone.
_OF_EPOCHS = {
    "check_on_train_epoch_end": True,
    "save_on_train_epoch_end": True,
    "logging_interval": "epoch",
    "interval": "epoch",
}


def build_callbacks(nodes: Node, folder: Path | None = None) -> list[Callback]:
    """The callbacks that a config asks for, in its order.

    Args:
        folder: of the run; a `ModelCheckpoint` that is given no `dirpath` writes to a folder of its own in it.
        nodes: name -> node with a `_target_`, any callback for Lightning. `observer: true` beside it says that the
            callback changes nothing that is computed, so that it is no part of a run's identity.

    Raises:
        UserError: one cannot be built, or is no callback; the message names it.
    """
    callbacks = {name: _build(f"callbacks.{name}", node) for name, node in nodes.items()}
    for name, callback in callbacks.items():
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None and folder is not None:
            callback.dirpath = str(folder / CHECKPOINT_FOLDER / name)  # beside the run's own, which it is resumed from
    return list(callbacks.values())


def check_callbacks(nodes: Node, strategy: Parallel) -> None:
    """Build every callback, whose settings fit its signature.

    Raises:
        UserError: one cannot be built, or does not work with the strategy.
    """
    for name, node in nodes.items():
        if not isinstance(node.get(OBSERVER, False), bool):
            raise UserError(f"callbacks.{name}.{OBSERVER}={node[OBSERVER]}: must be true or false")
    equal = strategy.holds_all and strategy.shares_gradients
    stateful: dict[str, str] = {}  # by the key under which a checkpoint has the state
    for name, callback in zip(nodes, build_callbacks(nodes), strict=True):
        for kind, why in _REFUSED.items():
            if isinstance(callback, kind):
                raise UserError(f"callbacks.{name}: {why}")
        for key, value in _OF_EPOCHS.items():
            if _is_lightnings(callback) and nodes[name].get(key) == value:
                raise UserError(
                    f"callbacks.{name}.{key}={str(value).lower()}: a run has no epochs, so that it would do nothing "
                    "before its end: leave it out"
                )
        has_state = type(callback).state_dict is not Callback.state_dict
        if has_state:
            check_readable(f"callbacks.{name}", callback.state_dict())
        if has_state and (other := stateful.setdefault(callback.state_key, name)) != name:
            raise UserError(
                f"callbacks.{name}: has the state_key of callbacks.{other}, under which a checkpoint holds one state: "
                "give their class a state_key that tells them apart"
            )
        if isinstance(callback, WeightAveraging) and not equal:
            raise UserError(
                f"callbacks.{name}: averages whole weights that are the same in every process, which the strategy does "
                "not keep: use strategy=single or strategy=ddp"
            )


def check_averages(nodes: Node, optimizer: Optimizer) -> None:
    """Check callbacks that average the weights against each other, and against the optimizer that trains them.

    Raises:
        UserError: there are several, or the optimizer averages weights itself.
    """
    callbacks = zip(nodes, build_callbacks(nodes), strict=True)
    averages = [name for name, each in callbacks if isinstance(each, WeightAveraging)]
    if len(averages) > 1:
        raise UserError(
            f"callbacks.{averages[1]}: averages weights, as callbacks.{averages[0]} does, and each would go on from "
            "the average of the other: leave one of them out"
        )
    if averages and hasattr(optimizer, "eval"):
        raise UserError(
            f"callbacks.{averages[0]}: averages the weights that are trained, and {type(optimizer).__name__} evaluates "
            "an average of its own: leave one of them out"
        )


def unaveraged(callbacks: Collection[Callback], steps: int) -> list[str]:
    """What the record of a run of so many steps should say of averages that none of them is in."""
    return [
        f"{type(each).__name__}: none of the {steps:,} steps is one that it averages"
        for each in callbacks
        if isinstance(each, WeightAveraging) and not any(each.should_update(step_idx=step) for step in range(steps))
    ]


def check_monitors(nodes: Node, metrics: Collection[str] | None) -> None:
    """Check what callbacks of Lightning watch for against what there will be to watch.

    Args:
        metrics: names of those that a run has; None: they are not known.

    Raises:
        UserError: there is no such metric. Callbacks of somebody's own may log one, if its name is near no other.
    """
    if metrics is None:
        return
    callbacks = dict(zip(nodes, build_callbacks(nodes), strict=True))
    known = [TRAIN_LOSS, *(name for name in metrics if name.startswith("val_"))]
    own = [type(each) for each in callbacks.values() if not _is_lightnings(each)]
    for name, callback in callbacks.items():
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in known and not _may_be_logged(monitor, own, known):
            raise UserError(f"callbacks.{name}.monitor={monitor}: no such metric{nearest(monitor, known)}")


def _may_be_logged(metric: str, by: Collection[type[Callback]], known: Collection[str]) -> bool:
    """Whether callbacks of somebody's own may log it: it is no slip of the pen, or their code names it."""
    if not by:
        return False
    return not difflib.get_close_matches(metric, known, cutoff=_SLIP) or any(
        metric in _code_beside(each) for each in by
    )


def _code_beside(kind: type) -> str:
    try:
        return inspect.getsource(inspect.getmodule(kind) or kind)
    except (OSError, TypeError):  # defined nowhere that can be read
        return ""


def check_setup(nodes: Node, module: LightningModule, trainer_of: Callable[[list[Callback]], Trainer]) -> None:
    """Set every callback up, as Lightning does before the first step, and let it clean up after itself.

    Args:
        trainer_of: makes a Trainer that trains nothing, with these callbacks.

    Raises:
        UserError: one cannot be set up; the message names it.
    """
    with tempfile.TemporaryDirectory() as nowhere:
        callbacks = dict(zip(nodes, build_callbacks(nodes, Path(nowhere)), strict=True))
        trainer = trainer_of(list(callbacks.values()))
        trainer.strategy.connect(module)
        module.trainer = trainer
        for name, callback in callbacks.items():
            try:
                callback.setup(trainer, module, "fit")
                callback.teardown(trainer, module, "fit")
            except Exception as error:  # of somebody's own, whatever it may be
                raise UserError(f"callbacks.{name}: cannot be set up ({named(error)})") from error


def has_setup(nodes: Node) -> bool:
    """Whether one of the callbacks does something before a run's first step."""
    return any(type(each).setup is not Callback.setup for each in build_callbacks(nodes))


def _is_lightnings(callback: Callback) -> bool:
    return type(callback).__module__.startswith("lightning.")


def _build(name: str, node: Node) -> Callback:
    try:
        callback = instantiate(_settings(node), _convert_="all")
    except (InstantiationException, MisconfigurationException, ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"{name} could not be built: {reason}") from error
    if not isinstance(callback, Callback):
        raise UserError(f"{name}._target_={node['_target_']}: must be a lightning.Callback")
    return callback


def _settings(node: Node) -> Node:
    return {key: value for key, value in node.items() if key != OBSERVER}


class GradientNorms(Callback):
    """Logs the norm of a step's gradient as `gradient_norm`, before it is clipped, where curves are logged.

    Args:
        per_parameter: log that of each parameter, too, as `gradient_norm/NAME`; not of the parameters that a strategy
            shares out among the processes.
    """

    def __init__(self, *, per_parameter: bool = False) -> None:
        self._per_parameter = per_parameter

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        step = trainer.global_step + 1
        if step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norms = torch.stack([torch.zeros_like(p.sum()) if p.grad is None else p.grad.norm() for p in parameters])
        values = {"gradient_norm": float(parallel(trainer.strategy).global_norm(norms))}
        if self._per_parameter:
            names = {id(parameter): name.removeprefix("model.") for name, parameter in module.named_parameters()}
            named = [(names[id(p)], norm) for p, norm in zip(parameters, norms.tolist(), strict=True) if id(p) in names]
            values |= {f"gradient_norm/{name}": norm for name, norm in named}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
