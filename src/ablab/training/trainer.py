"""Lightning's Trainer as every run uses it, and Lightning's manners."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger

from ablab.config import RunConfig
from ablab.training.build import BuiltRun
from ablab.training.callbacks import Curves
from ablab.training.checkpoint_files import Origin
from ablab.training.checkpoint_folders import CheckpointFiles
from ablab.training.checkpoints import Checkpoints, ParallelState, Randomness
from ablab.training.environment import Started
from ablab.training.lean import NoProfiler, without_idle_hooks
from ablab.training.module import TrainingModule
from ablab.training.world import world


def build_trainer(
    built: BuiltRun,
    folder: Path,
    loggers: list[Logger],
    callbacks: Sequence[Callback],
    origin: Origin,
    stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    """The Trainer of a run, with curves, checkpoints and `callbacks`, and the task cut to it.

    Args:
        origin: what its checkpoints belong to.
        stop: whether the run was asked to stop, and is to save itself.
    """
    config, task = built.config, built.task
    settings = trainer_settings(config)
    accumulate = settings.pop("accumulate_grad_batches")  # the module does both
    settings.pop("gradient_clip_val")
    steps = steps_per_block(config)
    task.block = steps * accumulate
    settings["val_check_interval"] //= steps  # what Lightning counts are blocks
    watching = [
        *callbacks,
        Curves(settings["log_every_n_steps"]),
        Randomness(),
        ParallelState(),
        Checkpoints(folder, task.primary, stop),
    ]
    trainer = Trainer(
        **settings,
        strategy=built.build_strategy(),
        max_epochs=-1,
        logger=loggers,
        callbacks=[without_idle_hooks(callback) for callback in watching],
        profiler=NoProfiler(),
        plugins=[CheckpointFiles(origin), Started(world())],
        default_root_dir=folder,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # tasks share their data among the processes themselves
        enable_progress_bar=False,  # it would count blocks; `ReportProgress` tells the steps
        enable_model_summary=False,
    )
    # What SIGTERM means is for those to say who start this process. Lightning's handler sends to the other processes,
    # each at a moment of its own, while they may be sending something else: all would wait for each other.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def trainer_settings(config: RunConfig) -> dict[str, Any]:
    """The config of the axis `trainer` as arguments of Lightning's Trainer, with the strategy's devices."""
    settings = {key: value for key, value in config.options["trainer"].items() if key != "_target_"}
    return settings | {"devices": config.processes}


def steps_per_block(config: RunConfig) -> int:
    """Steps from one moment to the next at which something may be due: a row of the curves, an evaluation."""
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
        # Lightning's own, about a function of torch that it still calls.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*is deprecated")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def build_module(built: BuiltRun) -> TrainingModule:
    """The model of a run, with its initial values, ready to be trained on its task."""
    return TrainingModule(
        built.build_model(),
        built.task,
        built.optimizer,
        built.schedule,
        clip=built.config.trainer.gradient_clip_val,
        accumulate=built.config.trainer.accumulate_grad_batches,
    )
