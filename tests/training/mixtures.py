"""Every option of every axis in a few runs, each of which has one of every axis; and Lightning's part of a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from omegaconf import OmegaConf

from ablab.config import Node, RunConfig, conf_folder
from ablab.config.axes import called_by
from ablab.errors import UserError
from ablab.model.spec import ClashError
from ablab.training.build import BuiltRun, build_strategy
from ablab.training.checkpoints import ParallelState, Randomness
from ablab.training.environment import FixedClusterEnvironment
from ablab.training.module import TrainingModule
from ablab.training.strategies.base import Parallel, parallel
from ablab.training.trainer import build_module, quiet_lightning, trainer_settings
from ablab.training.world import world

AXES = [*(axis.name for axis in called_by("model")), "optimizer", "schedule"]
# What makes an option do in a few steps what it does in thousands, or at all; one takes those that its file has.
SOON: dict[str, dict[str, Any]] = {
    "attention": {"warmup_steps": 3, "dense_below": 0, "window": 8, "bucket_size": 4, "block": 4, "keys": 4},
    "feed_forward": {"bias_speed": 0.05, "balance_weight": 0.1, "sequence_weight": 0.1},
    "objective": {"z_loss": 0.01, "weight_end": 0.1, "end_share": 0.6, "total_steps": 5},
    "optimizer": {"frequency": 2, "cautious_update": True, "cautious_decay": True},
}
Mixture = dict[str, str]  # the option of each axis


def mixtures(base: RunConfig) -> Iterator[RunConfig]:
    """Runs among which every option of every axis is, but for those that do not work with the strategy of `base`.

    Where two options do not work together, they are in two runs.
    """
    menu = {axis: sorted(path.stem for path in (conf_folder() / axis).glob("*.yaml")) for axis in AXES}
    usual = {axis: base.axes[axis] for axis in AXES}
    asked = [{axis: own[i % len(own)] for axis, own in menu.items()} for i in range(max(map(len, menu.values())))]
    task, strategy = BuiltRun.of(base).task, parallel(build_strategy(base))
    for mixture in asked:  # which grows
        while (clash := _clash(BuiltRun(config=_mixed(base, mixture), task=task), strategy)) is not None:
            out = next(axis for axis in (clash.other, clash.axis) if mixture.get(axis) != usual.get(axis))
            alone = usual | {out: mixture[out]}
            if mixture == alone:
                break
            asked += [alone] if alone not in asked else []
            mixture[out] = usual[out]
        else:
            yield _mixed(base, mixture)


def _mixed(base: RunConfig, mixture: Mixture) -> RunConfig:
    options = {axis: _node(axis, option, base.trainer.max_steps) for axis, option in mixture.items()}
    return replace(base, options=base.options | options, axes=base.axes | mixture)


@cache
def _node(axis: str, option: str, steps: int) -> Node:
    """What the option's file says, resolved."""
    whole: Any = OmegaConf.create({"trainer": {"max_steps": steps}})
    whole[axis] = OmegaConf.load(conf_folder() / axis / f"{option}.yaml")
    node: Any = OmegaConf.to_container(whole[axis], resolve=True)
    return node | {key: value for key, value in SOON.get(axis, {}).items() if key in node}


def _clash(built: BuiltRun, strategy: Parallel) -> ClashError | None:
    try:
        strategy.check_model(built.shapes)
        strategy.check_optimizer(built.optimizer)
    except ClashError as clash:
        return clash
    except UserError as error:
        if isinstance(error.__cause__, ClashError):
            return error.__cause__
        raise
    return None


class Keep(Callback):
    """Leaves a checkpoint as a run does that is asked to stop behind a step."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


def fit(built: BuiltRun, *callbacks: Callback, origin: Path | None = None) -> dict[str, Any]:
    """Train as a run does, without what a run leaves in its folder; all that is known behind the last step.

    Args:
        origin: a checkpoint to go on from.
    """
    settings = {**trainer_settings(built.config), "limit_val_batches": 0, "profiler": None}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    with quiet_lightning(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            **(settings | quiet),
            strategy=built.build_strategy(),
            max_epochs=-1,
            logger=False,
            callbacks=[*callbacks, Randomness(), ParallelState()],
            plugins=[FixedClusterEnvironment(world())],
            check_val_every_n_epoch=None,
            use_distributed_sampler=False,
        )
        module = build_module(built)
        trainer.fit(module, datamodule=built.task, ckpt_path=origin, weights_only=True)
        return _known(built, trainer, module)


def _known(built: BuiltRun, trainer: Trainer, module: TrainingModule) -> dict[str, Any]:
    model = parallel(trainer.strategy).full_model(module.model, built.build_model)
    return {
        "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
        "buffers": {name: b.clone() for name, b in model.named_buffers()},  # those that no checkpoint has, too
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "rates": module.learning_rates,
        "loss": module.train_loss,
    }
