"""Everything that can be known to be wrong with a run before it is started, found before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.optim.lr_scheduler import LRScheduler

from ablab.config import fingerprint
from ablab.config.axes import AXES, Axis, load
from ablab.config.signature import check_signature
from ablab.errors import UserError
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer
from ablab.tasks.base import Task
from ablab.training.build import build_model, build_task, clashing
from ablab.training.callback_group import check_callbacks
from ablab.training.continuing import check_origin
from ablab.training.environment import Started
from ablab.training.optimizers.groups import build_optimizer
from ablab.training.strategies.base import Parallel, parallel
from ablab.training.trainer import build_profiler, build_strategy, quiet_lightning, trainer_settings, world_size
from ablab.training.world import World, launched


class Preflight:
    """Checks frozen configs by building all that is cheap to build. Data that several runs share are read once."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._passed: set[str] = set()  # identities, without the seed

    def check(self, config: dict[str, Any]) -> None:
        """Raises UserError with one line if the run cannot work."""
        if not 0 <= config["seed"] < 2**63:
            raise UserError(f"seed={config['seed']}: must be at least 0 and less than 2**63")
        identity = fingerprint({**config, "seed": 0}) + json.dumps(
            [config["logger"], config["callbacks"]], sort_keys=True
        )
        if identity not in self._passed:
            self._check(config)
            self._passed.add(identity)

    def _check(self, config: dict[str, Any]) -> None:
        for axis in reversed(AXES.values()):  # the trainer's keys are what others refer to
            check_options(axis, config)
        check_origin(config)
        strategy = self._check_trainer(config)
        check_callbacks(config["callbacks"], strategy)
        task = self.task(config)
        self._check_shares(config, task, strategy)
        model = build_model(config, task, device="meta")
        schedule = self._check_optimizer(config)
        self._check_strategy(config, task, model, strategy)
        self._check_gradients(config, strategy, schedule)

    def task(self, config: dict[str, Any]) -> Task:
        """The task of the config, with its data; for any seed."""
        key = json.dumps(config["task"], sort_keys=True)
        if key not in self._tasks:
            self._tasks[key] = build_task(config)
        return self._tasks[key]

    @staticmethod
    def _check_shares(config: dict[str, Any], task: Task, strategy: Parallel) -> None:
        processes = world_size(config)
        shares = strategy.shares_of(processes)
        if task.batch_size % shares:
            parts = "" if shares == processes else f" that see different samples, of {processes}"
            raise UserError(
                f"task.batch_size={task.batch_size} cannot be shared equally by {shares} processes{parts} "
                f"(strategy={config['axes'].get('strategy')}): choose a multiple of {shares}"
            )

    @staticmethod
    def _check_strategy(config: dict[str, Any], task: Task, model: Transformer, strategy: Parallel) -> None:
        try:
            strategy.check_batch(task.batch_size // strategy.shares_of(world_size(config)))
            strategy.check_model(model)
            strategy.check_optimizer(instantiate(config["optimizer"], _convert_="all"))
        except ClashError as clash:
            raise clashing(config, clash) from clash
        except ValueError as error:
            raise UserError(f"strategy={config['axes'].get('strategy')}: {error}") from error

    @staticmethod
    def _check_trainer(config: dict[str, Any]) -> Parallel:
        if config["trainer"]["_target_"] != "lightning.Trainer":
            raise UserError(f"trainer._target_={config['trainer']['_target_']}: only lightning.Trainer is used")
        settings = trainer_settings(config)
        if settings.get("limit_val_batches") == 0:
            raise UserError("trainer.limit_val_batches=0: without an evaluation there is nothing to compare")
        if "gradient_clip_val" not in settings:
            raise UserError("trainer.gradient_clip_val must be given; null does not clip")
        for key in ("max_steps", "val_check_interval", "log_every_n_steps", "accumulate_grad_batches"):
            value = settings.get(key)
            if type(value) is not int:
                raise UserError(f"trainer.{key}={value}: must be a whole number")
            if value < 1:
                raise UserError(f"trainer.{key}={value}: must be at least 1")
        if type(settings.get("num_nodes", 1)) is not int or settings.get("num_nodes", 1) < 1:
            raise UserError(f"trainer.num_nodes={settings['num_nodes']}: must be a whole number, at least 1")
        build_profiler(settings.pop("profiler", None), Path("profile"))  # writes nothing before it is used
        strategy = build_strategy(config)
        _check_devices(config)
        try:
            with quiet_lightning():
                Trainer(
                    **{"enable_progress_bar": False, "enable_model_summary": False, **settings},
                    logger=False,
                    strategy=strategy,
                    plugins=[Started(World())],
                    enable_checkpointing=False,
                )
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        return parallel(strategy)

    @staticmethod
    def _check_optimizer(config: dict[str, Any]) -> LRScheduler:
        tiny = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1)  # a matrix and a vector, grouped as a model's are
        axis = "optimizer"
        try:
            optimizer = build_optimizer(instantiate(config["optimizer"], _convert_="all"), tiny)
            axis = "schedule"
            schedule: LRScheduler = instantiate(config["schedule"], _convert_="all")(optimizer)
        except (ValueError, TypeError, RuntimeError, InstantiationException) as error:
            raise UserError(f"{axis}: {' '.join(str(error).split())}") from error
        return schedule

    @staticmethod
    def _check_gradients(config: dict[str, Any], strategy: Parallel, schedule: LRScheduler) -> None:
        """What the strategy makes of the gradients must be what others count on."""
        option, chosen = (config["axes"].get(axis) for axis in ("strategy", "schedule"))
        if not strategy.shares_gradients and getattr(schedule, "reads_gradients", False):
            raise UserError(
                f"strategy={option} does not work with schedule={chosen}: the schedule reads gradients, which each "
                "process has for itself, so that their learning rates would part; choose another of either"
            )
        precision = config["trainer"].get("precision")
        if not strategy.takes_scaled and precision in ("16", "16-mixed", 16):
            raise UserError(
                f"trainer.precision={precision} scales gradients by a factor that changes between steps, which "
                f"strategy={option} cannot follow: use trainer.precision=bf16-mixed"
            )


def check_options(axis: Axis, config: dict[str, Any]) -> None:
    """Check the keys and values of an axis's option, or of its several, against what builds it.

    Raises:
        UserError: one is unknown, missing, of the wrong type, or not the config's to give.
    """
    options = {axis.name: config.get(axis.name)}
    if axis.several:
        options = {f"{axis.name}.{key}": each for key, each in config[axis.name].items()}
    for name, option in options.items():
        if not isinstance(option, dict) or "_target_" not in option:
            raise UserError(f"{name}: the option has no _target_, the class or function that builds it")
        refused: dict[str, str] = load(axis.refused) if axis.refused else {}
        for key in option:
            if key in refused:
                raise UserError(f"{name}.{key}: {refused[key]}")
        own = {key: value for key, value in option.items() if key not in axis.beside}
        check_signature(name, own, (*axis.supplied, *refused))


def _check_devices(config: dict[str, Any]) -> None:
    """Raises UserError for more GPUs than there are. On CPUs there are as many processes as one likes."""
    wanted, accelerator = config["strategy"]["processes"], config["trainer"]["accelerator"]
    there = torch.cuda.device_count()
    if accelerator not in ("auto", "gpu", "cuda") or not there or type(wanted) is not int or wanted <= there:
        return
    count = f"{there} GPUs" if there > 1 else "1 GPU"
    if (place := launched()) is not None and place.on_node == wanted:
        raise UserError(
            f"trainer.devices={wanted}: each process sees {count}, and must see all {wanted} of its node: "
            "with srun, leave out --gpus-per-task and --gpu-bind"
        )
    raise UserError(
        f"trainer.devices={wanted}: there {'are' if there > 1 else 'is'} {count}; choose fewer, or "
        "trainer.accelerator=cpu"
    )
