"""Everything that can be known to be wrong with a run before it is started, found before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import torch
from hydra.utils import instantiate
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ablab.config import Node, RunConfig, fingerprint
from ablab.config.axes import AXES, Axis, load
from ablab.config.run_config import Compile
from ablab.config.signature import check_signature
from ablab.errors import UserError, one_line
from ablab.model.spec import ClashError
from ablab.study.planning.check_trainer import check_evaluations, check_trainer
from ablab.tasks.base import Task
from ablab.training.build import BuiltRun, build_task, made_of
from ablab.training.build_model import clashing
from ablab.training.callback_group import check_averages, check_callbacks
from ablab.training.loggers import check_loggers
from ablab.training.optimizers.groups import build_optimizer
from ablab.training.optimizers.widths import check_follows
from ablab.training.rehearsal import rehearse, rehearse_callbacks, rehearse_compiled
from ablab.training.schedules.decay import Branching
from ablab.training.stacked.trial import why_not_stacked
from ablab.training.strategies.base import Parallel
from ablab.training.warm_start import check_origin


class Preflight:
    """Checks runs by building all of them that is cheap to build. Data that several runs share are read once."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[int, Task]] = {}  # by their settings, each with the seed of the first such run
        self._passed: set[str] = set()  # identities, without the seed
        self._stacked: dict[str, str | None] = {}  # why not, by identities without the seed
        self._metrics: dict[str, set[str] | None] = {}  # of what was tried, by the options that make the model
        self._compiled: set[tuple[str, Compile]] = set()  # of what was traced, with the mode

    def check(self, config: RunConfig) -> None:
        """Check the run, unless one has passed that differs from it in nothing but its seed.

        Raises:
            UserError: with one line, if the run cannot work.
        """
        _check_seed(config)
        watching = [config.options[axis] for axis in ("logger", "callbacks")]
        identity = fingerprint(replace(config, seed=0)) + json.dumps(watching, sort_keys=True)
        if identity not in self._passed:
            built = self._build(config, self.task)
            if (tried := made_of(config)) not in self._metrics:
                self._metrics[tried] = rehearse(built)
            if config.trainer.compile and (compiled := (tried, config.trainer.compile)) not in self._compiled:
                rehearse_compiled(built)
                self._compiled.add(compiled)
            rehearse_callbacks(built, self._metrics[tried])
            self._passed.add(identity)

    def may_stack(self, config: RunConfig) -> bool:
        """Whether the run asks for its seeds to be stacked, and they can be."""
        return config.execution.stack is not None and self.why_not_stacked(config) is None

    def why_not_stacked(self, config: RunConfig) -> str | None:
        """Why the seeds of a run that was checked cannot be stacked; None where they can. It is tried once."""
        identity = fingerprint(replace(config, seed=0)) + str(config.budget.match)
        if identity not in self._stacked:
            self._stacked[identity] = why_not_stacked(BuiltRun(config=config, task=self.task(config)))
        return self._stacked[identity]

    def build(self, config: RunConfig) -> BuiltRun:
        """The run, checked, to be trained in this process. Raises UserError with one line if it cannot work."""
        _check_seed(config)
        built = self._build(config, self._own_task)
        metrics = rehearse(built, keep_model=True)
        rehearse_compiled(built)
        rehearse_callbacks(built, metrics)
        return built

    def metrics(self, config: RunConfig) -> set[str] | None:
        """The names of the metrics that a run which was checked will have; None where that is not known."""
        return self._metrics.get(made_of(config))

    def task(self, config: RunConfig) -> Task:
        """The task of the config, with its data; for any seed."""
        return self._seeded_task(config)[1]

    def _build(self, config: RunConfig, task_of: Callable[[RunConfig], Task]) -> BuiltRun:
        for axis in reversed(AXES.values()):  # the trainer's keys are what others refer to
            check_options(axis, config.options)
        check_origin(config)
        strategy = check_trainer(config)
        check_callbacks(config.options["callbacks"], strategy)
        check_loggers(config.options["logger"])
        built = BuiltRun(config=config, task=task_of(config))
        self._check_shares(config, built.task, strategy)
        check_evaluations(config, built.task)
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
        shares = strategy.dp_size(processes)
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
            strategy.check_batch(built.task.batch_size // strategy.dp_size(config.world_size))
            strategy.check_model(built.shapes)
            strategy.check_optimizer(built.optimizer)
        except ClashError as clash:
            raise clashing(config, clash) from clash
        except ValueError as error:
            raise UserError(f"{config.chosen('strategy')}: {error}") from error

    @staticmethod
    def _check_optimizer(config: RunConfig) -> LRScheduler:
        tiny = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1)  # a matrix and a vector, grouped as a model's are
        for parameter in tiny.parameters():
            parameter.data.fill_(1.0)
        axis = "optimizer"
        try:
            optimizer = build_optimizer(instantiate(config.options["optimizer"], _convert_="all"), tiny)
            if "base_width" in config.options.get("parametrisation", {}):  # a width that rates are stated at
                check_follows(optimizer)
            axis = "schedule"
            schedule: LRScheduler = instantiate(config.options["schedule"], _convert_="all")(optimizer)
            _take_steps(optimizer, schedule, min(3, config.trainer.max_steps))
            check_averages(config.options["callbacks"], optimizer)
            if not any(group["initial_lr"] for group in optimizer.param_groups):
                raise UserError("optimizer.lr=0: no step would change anything; give a learning rate above 0")
            _check_branches(schedule, config.trainer.max_steps)
        except ArithmeticError as error:  # as a division by a setting that is 0
            raise UserError(f"{axis}: cannot take its first steps ({one_line(error)}): mend its settings") from error
        except UserError:
            raise
        except Exception as error:  # of somebody else's class, too
            raise UserError(f"{axis}: {one_line(error)}") from error
        return schedule

    @staticmethod
    def _check_gradients(config: RunConfig, strategy: Parallel, schedule: LRScheduler) -> None:
        """What the strategy makes of the gradients must be what others count on."""
        option, chosen = config.chosen("strategy"), config.chosen("schedule")
        if not strategy.shares_gradients and getattr(schedule, "reads_gradients", False):
            raise UserError(
                f"{option} does not work with {chosen}: the schedule reads gradients, which each "
                "process has for itself, so that their learning rates would part; change one of the two"
            )
        precision = config.trainer.precision
        if not strategy.takes_scaled and precision in ("16", "16-mixed", 16):
            raise UserError(
                f"trainer.precision={precision} scales gradients by a factor that changes between steps, which "
                f"{option} cannot follow: use trainer.precision=bf16-mixed"
            )


def _check_branches(schedule: LRScheduler, steps: int) -> None:
    for branch in schedule.branches if isinstance(schedule, Branching) else ():
        if branch.steps >= steps:
            raise UserError(
                f"schedule.anneal_at: a run of {branch.steps} steps is no shorter one than this of {steps}: shares are "
                "of schedule.total_steps"
            )


def _take_steps(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> None:
    """A few steps as a run takes them, in case one of the two cannot."""
    getattr(optimizer, "train", lambda: None)()
    for step in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, 1.0 + step)
        optimizer.step()
        schedule.step()
    getattr(schedule, "mechanism", dict)()


def check_options(axis: Axis, options: dict[str, Node]) -> None:
    """Check the keys and values of an axis's option, or of its several, against what builds it.

    Args:
        options: by axis.

    Raises:
        UserError: one is unknown, missing, of the wrong type, or not the config's to give.
    """
    chosen = {axis.name: options.get(axis.name)}
    if axis.several:
        chosen = {f"{axis.name}.{key}": each for key, each in options[axis.name].items()}
    for name, option in chosen.items():
        if isinstance(option, str):  # as a study file may say it
            raise UserError(
                f"{name}: {option} is no option but a text; write {name}={option} in a command, or a line "
                f"'- override /{name}: {option}' in the defaults of a file"
            )
        if not isinstance(option, dict) or "_target_" not in option:
            raise UserError(f"{name}: the option has no _target_, the class or function that builds it")
        refused: dict[str, str] = load(axis.refused) if axis.refused else {}
        for key in option:
            if key in refused:
                raise UserError(f"{name}.{key}: {refused[key]}")
        own = {key: value for key, value in option.items() if key not in axis.beside}
        check_signature(name, own, (*axis.supplied, *refused))


def _check_seed(config: RunConfig) -> None:
    if not 0 <= config.seed < 2**63:
        raise UserError(f"seed={config.seed}: must be at least 0 and less than 2**63")
