"""Everything that can be known to be wrong with a run before it is started, found before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.optim.lr_scheduler import LRScheduler

from ablab.config import RunConfig, fingerprint
from ablab.config.signature import check_signature
from ablab.errors import UserError
from ablab.model.spec import ClashError
from ablab.tasks.base import Task
from ablab.training.build import COMPONENT_AXES, BuiltRun, build_strategy, build_task, clashing
from ablab.training.environment import Started
from ablab.training.optimizers.groups import build_optimizer
from ablab.training.strategies.base import Parallel, parallel
from ablab.training.trainer import quiet_lightning, trainer_settings
from ablab.training.warm_start import check_origin
from ablab.training.world import World, launched

# What the program gives to each kind of option, and the config does not.
SUPPLIED = {
    "trainer": (
        *("barebones", "gradient_clip_algorithm", "limit_train_batches", "overfit_batches", "max_time"),
        *("strategy", "max_epochs", "check_val_every_n_epoch", "num_sanity_val_steps", "use_distributed_sampler"),
        *("logger", "callbacks", "profiler", "plugins", "default_root_dir", "enable_progress_bar"),
        *("enable_model_summary", "fast_dev_run"),  # the last would silently replace max_steps
    ),
    "task": ("seed",),
    "model": (
        *("vocab_size", "max_length", "seed", "causal", "padding", "pooled", "n_outputs", "encoders"),
        *COMPONENT_AXES,
    ),
    "attention": ("spec",),
    "activation": ("spec",),
    "position": ("spec",),
    "layer_fusion": ("spec",),
    "modal_fusion": ("spec",),
    "optimizer": ("params",),
    "schedule": ("optimizer",),
}


class Preflight:
    """Checks runs by building all of them that is cheap to build. Data that several runs share are read once."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[int, Task]] = {}  # by their settings, each with the seed of the first such run
        self._passed: set[str] = set()  # identities, without the seed

    def check(self, config: RunConfig) -> None:
        """Check the run, unless one has passed that differs from it in nothing but its seed.

        Raises:
            UserError: with one line, if the run cannot work.
        """
        _check_seed(config)
        logger = json.dumps(config.options["logger"], sort_keys=True)
        identity = fingerprint(replace(config, seed=0)) + logger
        if identity not in self._passed:
            self._build(config, self.task)
            self._passed.add(identity)

    def build(self, config: RunConfig) -> BuiltRun:
        """The run, checked, to be trained in this process. Raises UserError with one line if it cannot work."""
        _check_seed(config)
        return self._build(config, self._own_task)

    def task(self, config: RunConfig) -> Task:
        """The task of the config, with its data; for any seed."""
        return self._seeded_task(config)[1]

    def _build(self, config: RunConfig, task_of: Callable[[RunConfig], Task]) -> BuiltRun:
        for name in ("trainer", "strategy", "task", "model", *COMPONENT_AXES, "optimizer", "schedule"):
            option = config.options.get(name)
            if not isinstance(option, dict) or "_target_" not in option:
                raise UserError(f"{name}: the option has no _target_, the class or function that builds it")
            check_signature(name, option, SUPPLIED.get(name, ()))
        for name, node in config.options["logger"].items():
            check_signature(f"logger.{name}", node, ("run",))
        check_origin(config)
        strategy = self._check_trainer(config)
        built = BuiltRun(config=config, task=task_of(config))
        self._check_shares(config, built.task, strategy)
        built.shapes  # noqa: B018 (it is built here for the first time)
        schedule = self._check_optimizer(config)
        self._check_strategy(built, strategy)
        self._check_gradients(config, strategy, schedule)
        return built

    def _own_task(self, config: RunConfig) -> Task:
        seed, task = self._seeded_task(config)
        return task if seed == config.seed else build_task(config)

    def _seeded_task(self, config: RunConfig) -> tuple[int, Task]:
        key = json.dumps(config.options["task"], sort_keys=True)
        if key not in self._tasks:
            self._tasks[key] = config.seed, build_task(config)
        return self._tasks[key]

    @staticmethod
    def _check_shares(config: RunConfig, task: Task, strategy: Parallel) -> None:
        processes = config.world_size
        shares = strategy.shares_of(processes)
        if task.batch_size % shares:
            parts = "" if shares == processes else f" that see different samples, of {processes}"
            raise UserError(
                f"task.batch_size={task.batch_size} cannot be shared equally by {shares} processes{parts} "
                f"({config.chosen('strategy')}): choose a multiple of {shares}"
            )

    @staticmethod
    def _check_strategy(built: BuiltRun, strategy: Parallel) -> None:
        config = built.config
        try:
            strategy.check_batch(built.task.batch_size // strategy.shares_of(config.world_size))
            strategy.check_model(built.shapes)
            strategy.check_optimizer(built.optimizer)
        except ClashError as clash:
            raise clashing(config, clash) from clash
        except ValueError as error:
            raise UserError(f"{config.chosen('strategy')}: {error}") from error

    @staticmethod
    def _check_trainer(config: RunConfig) -> Parallel:
        target, settings = config.options["trainer"]["_target_"], trainer_settings(config)
        if target != "lightning.Trainer":
            raise UserError(f"trainer._target_={target}: only lightning.Trainer is used")
        config.trainer  # noqa: B018 (reading it is the check)
        strategy = build_strategy(config)
        _check_devices(config)
        try:
            with quiet_lightning():
                Trainer(
                    **settings,
                    logger=False,
                    enable_progress_bar=False,
                    strategy=strategy,
                    plugins=[Started(World())],
                    enable_checkpointing=False,
                    enable_model_summary=False,
                )
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        return parallel(strategy)

    @staticmethod
    def _check_optimizer(config: RunConfig) -> LRScheduler:
        tiny = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1)  # a matrix and a vector, grouped as a model's are
        axis = "optimizer"
        try:
            optimizer = build_optimizer(instantiate(config.options["optimizer"], _convert_="all"), tiny)
            axis = "schedule"
            schedule: LRScheduler = instantiate(config.options["schedule"], _convert_="all")(optimizer)
        except (ValueError, TypeError, RuntimeError, InstantiationException) as error:
            raise UserError(f"{axis}: {' '.join(str(error).split())}") from error
        return schedule

    @staticmethod
    def _check_gradients(config: RunConfig, strategy: Parallel, schedule: LRScheduler) -> None:
        """What the strategy makes of the gradients must be what others count on."""
        option, chosen = config.chosen("strategy"), config.chosen("schedule")
        if not strategy.shares_gradients and getattr(schedule, "reads_gradients", False):
            raise UserError(
                f"{option} does not work with {chosen}: the schedule reads gradients, which each "
                "process has for itself, so that their learning rates would part; choose another of either"
            )
        precision = config.trainer.precision
        if not strategy.takes_scaled and precision in ("16", "16-mixed", 16):
            raise UserError(
                f"trainer.precision={precision} scales gradients by a factor that changes between steps, which "
                f"{option} cannot follow: use trainer.precision=bf16-mixed"
            )


def _check_seed(config: RunConfig) -> None:
    if not 0 <= config.seed < 2**63:
        raise UserError(f"seed={config.seed}: must be at least 0 and less than 2**63")


def _check_devices(config: RunConfig) -> None:
    """Raises UserError for more GPUs than there are. On CPUs there are as many processes as one likes."""
    wanted, accelerator = config.processes, config.trainer.accelerator
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
