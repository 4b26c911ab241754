"""Lightning's Trainer as every run uses it, and Lightning's manners."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar, WeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from ablab.config import Node, RunConfig
from ablab.config.axes import AXES
from ablab.config.signature import check_signature
from ablab.errors import UserError
from ablab.results.store import CHECKPOINT_FOLDER, PROFILE_FOLDER
from ablab.tasks.base import Task
from ablab.training.build import BuiltRun
from ablab.training.callbacks import Curves
from ablab.training.checkpoint_folders import CheckpointFiles
from ablab.training.checkpoint_list import Origin
from ablab.training.checkpoints import Checkpoints, ParallelState, Randomness
from ablab.training.compile import compile_blocks
from ablab.training.environment import FixedClusterEnvironment
from ablab.training.module import TrainingModule
from ablab.training.stopping import OwnSigterm
from ablab.training.watchers import Watchers
from ablab.training.world import World, world

PROFILERS: dict[str, Callable[..., Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}

_ENDLESS = "training batches are drawn by seed and number, without end or epochs: use trainer.max_steps"

# Arguments of Lightning's Trainer that are not the config's to give: the reason, and what to use instead.
OWNED = {
    "strategy": "is an axis of its own: choose strategy=ddp, strategy=fsdp, ...",
    "logger": "is an axis of its own: choose logger=tensorboard, logger=csv, ...",
    "callbacks": "is a group of its own: choose callbacks=ema, callbacks=[early_stopping,ema], ...",
    "plugins": "are the run's own, which write its checkpoints; for the precision use trainer.precision",
    "default_root_dir": "is the run's folder: use hydra.run.dir or name",
    "enable_checkpointing": "every run writes the checkpoints that it is resumed and judged from",
    "barebones": "a run without logs and checkpoints has no record",
    "fast_dev_run": "would silently replace the steps and leave out checkpoints: use trainer=smoke",
    "max_epochs": _ENDLESS,
    "min_epochs": _ENDLESS,
    "check_val_every_n_epoch": _ENDLESS + " and trainer.val_check_interval",
    "limit_train_batches": _ENDLESS,
    "overfit_batches": _ENDLESS + ", on a corpus of a few samples",
    "reload_dataloaders_every_n_epochs": _ENDLESS,
    "num_sanity_val_steps": "every run is checked before it starts, and a first evaluation would be in its record",
    "use_distributed_sampler": "tasks share their samples among the processes themselves",
    "limit_predict_batches": "a run predicts nothing: use `ablab generate` or trainer.limit_test_batches",
}
_OBSERVING = {"enable_progress_bar": False, "enable_model_summary": False}  # unless asked for


def build_trainer(
    built: BuiltRun,
    folder: Path,
    loggers: list[Logger],
    callbacks: Sequence[Callback],
    origin: Origin,
    stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    """The Trainer of a run, with curves, checkpoints and `callbacks`.

    Args:
        origin: what its checkpoints belong to.
        stop: whether the run was asked to stop, and is to save itself.
    """
    config, task = built.config, built.task
    settings: Node = {**_OBSERVING, **trainer_settings(config)}
    # Lightning counts batches here, and the config optimizer steps.
    settings["val_check_interval"] *= settings["accumulate_grad_batches"]
    settings["profiler"] = build_profiler(settings.get("profiler"), folder / PROFILE_FOLDER)
    settings["enable_progress_bar"] |= any(isinstance(callback, ProgressBar) for callback in callbacks)
    return Trainer(
        **settings,
        strategy=built.build_strategy(),
        max_epochs=-1,
        logger=loggers,
        callbacks=[
            *callbacks,
            Watchers(Curves(settings["log_every_n_steps"]), Randomness(), ParallelState(), OwnSigterm()),
            Checkpoints(folder, task.primary, stop, settings["log_every_n_steps"]),
        ],
        plugins=[CheckpointFiles(origin, folder / CHECKPOINT_FOLDER), FixedClusterEnvironment(world())],
        default_root_dir=folder,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # tasks share their data among the processes themselves
    )


def idle_trainer(config: RunConfig, strategy: Any, **more: Any) -> Trainer:
    """A Trainer with the settings of a run, made to see whether it can be: it trains and writes nothing.

    Raises:
        Whatever an accelerator or a plugin raises that is not there.
    """
    settings: Node = {**_OBSERVING, **trainer_settings(config), "logger": False, "enable_checkpointing": False, **more}
    settings.pop("profiler", None)
    with quiet_lightning():
        return Trainer(**settings, strategy=strategy, plugins=[FixedClusterEnvironment(World())])


def build_profiler(asked: str | Node | None, folder: Path) -> Profiler | None:
    """Lightning's profiler of that name ("simple", "advanced", "pytorch") or node, which writes to a folder.

    Raises:
        UserError: there is no such profiler.
    """
    if asked is None:
        return None
    if isinstance(asked, str) and asked not in PROFILERS:
        raise UserError(f"trainer.profiler={asked}: must be null, {', '.join(PROFILERS)}, or a node with a _target_")
    where = {"dirpath": str(folder), "filename": "profile"}
    if isinstance(asked, str):
        return PROFILERS[asked](**where)
    if "_target_" not in asked:
        raise UserError("trainer.profiler: has no _target_, the class that builds it")
    check_signature("trainer.profiler", {**where, **asked})
    profiler = instantiate({**where, **asked}, _convert_="all")
    if not isinstance(profiler, Profiler):
        raise UserError(f"trainer.profiler._target_={asked['_target_']}: must be a profiler of Lightning")
    return profiler


def end_profile(profiler: Profiler) -> None:
    """End what a profiler still records, as of the hooks that Lightning calls behind its last report."""
    try:
        profiler.teardown(stage=None)
    except AssertionError:  # PyTorch's, which has no events where its schedule has not come to a step that it records
        if not isinstance(profiler, PyTorchProfiler):
            raise
        profiler.profiler = None  # it has ended; Lightning asks for its events behind that
        profiler.teardown(stage=None)


def trainer_settings(config: RunConfig) -> Node:
    """The config of the axis `trainer` as arguments of Lightning's Trainer, with the strategy's devices."""
    own = ("_target_", *AXES["trainer"].beside)
    settings = {key: value for key, value in config.options["trainer"].items() if key not in own}
    return settings | {"devices": config.processes}


def leaves_out(limit: float | None) -> bool:
    """Whether a limit of batches leaves out any: to Lightning 1.0 is all of them, and 1 a single one."""
    return limit is not None and not (isinstance(limit, float) and limit == 1)


def untimed_steps(config: RunConfig) -> int:
    """Steps at the start of a run that its times leave out, while memory and caches fill."""
    return math.gcd(config.trainer.val_check_interval, config.trainer.log_every_n_steps)


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Leave out what Lightning says at every start and the researcher knows already."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Batches are cut from an array in memory; worker processes would only slow this down.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Totals are summed over the processes before they become metrics.
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
        # Tasks serve the batches that come next by themselves: batch i is a function of (seed, i).
        warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
        # Of averaged weights and models that are cut among processes; such strategies refuse them.
        warnings.filterwarnings("ignore", message=".*WeightAveraging callback with a model that overrides.*")
        # Lightning's own, about a function of torch that it still calls.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*is deprecated")
        # Of those that only watch: a shorter run on the way of a longer one is made without them.
        warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def build_module(built: BuiltRun) -> TrainingModule:
    """The model of a run, with its initial values, ready to be trained on its task."""
    module = TrainingModule(
        built.build_model(),
        built.task,
        built.optimizer,
        built.schedule,
    )
    compile_blocks(module.model, built.config.trainer.compile)
    return module


def begin_and_end(trainer: Trainer, module: TrainingModule) -> None:
    """Begin and end the training of a run that went on from its last step, where Lightning does neither.

    What a checkpoint has is taken up as training begins, and averaged weights become the model's as it ends. Callbacks
    of somebody's own are left out: outside of Lightning's loop their hooks may do what only works within.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Watchers | Checkpoints):
            callback.on_train_start(trainer, module)
    for callback in callbacks:
        if isinstance(callback, Watchers | WeightAveraging):
            callback.on_train_end(trainer, module)
    module.on_train_end()


def evaluate(trainer: Trainer, module: TrainingModule, task: Task) -> dict[str, float]:
    """The final weights on the validation and test splits, unless the training ended with an evaluation anyway."""
    if module.evaluated_at != trainer.global_step:
        trainer.validate(module, datamodule=task, verbose=False)
    if task.test_dataloader():
        trainer.test(module, datamodule=task, verbose=False)
    return module.metrics
