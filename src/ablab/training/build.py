"""From a config to the objects of a run. Every option is built by its own `_target_`; no name is ever tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from hydra.utils import instantiate
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ablab.config import RunConfig
from ablab.config.axes import called_by
from ablab.model.transformer import Transformer
from ablab.results.record import Cost
from ablab.tasks.base import Task
from ablab.training.build_model import built, model_factory, of_length
from ablab.training.build_option import build_option, refused
from ablab.training.cost import count_active_parameters, count_parameters, flops_of
from ablab.training.inference import inference_costs


@dataclass(frozen=True, kw_only=True)
class BuiltRun:
    """A run with all that its training takes, each made once, and when it is asked for first.

    Args:
        task: with its data loaded, and the seed of the config.
        counted: what is known of its cost from a run of the same model; None: it is counted here.
    """

    config: RunConfig
    task: Task
    counted: Cost | None = None
    _spare: list[Transformer] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, config: RunConfig, counted: Cost | None = None) -> BuiltRun:
        """The run of a config. Raises UserError if its data are missing or its task cannot work."""
        return cls(config=config, task=build_task(config), counted=counted)

    @cached_property
    def _model_factory(self) -> Callable[..., Transformer]:
        return model_factory(self.config, self.task)

    @cached_property
    def shapes(self) -> Transformer:
        """The model without values, which takes no time: for counting, and for checks."""
        return built(self.config, self._model_factory, "meta")

    @cached_property
    def cost(self) -> Cost:
        """Parameters and FLOPs, counted before training; no FLOPs where they cannot be counted."""
        if self.counted is not None:
            return self.counted
        flops, uncounted = flops_of(self.shapes, self.task, self.build_model)
        samples = self.task.batch_size * self.config.trainer.accumulate_grad_batches
        counted = Cost(
            parameters=count_parameters(self.shapes),
            active_parameters=count_active_parameters(self.shapes),
            flops_per_step=None if flops is None else flops * samples,
            flops_uncounted=uncounted,
        )
        return replace(counted, **inference_costs(self.config, self.task, self.shapes, self._of_length))

    def _of_length(self, length: int) -> Transformer:
        """The model without values, for sequences of so many tokens."""
        return of_length(self.config, self._model_factory, length, self.task.max_length)

    @cached_property
    def optimizer(self) -> Callable[..., Optimizer]:
        """Makes the optimizer of parameters."""
        factory: Callable[..., Optimizer] = instantiate(self.config.options["optimizer"], _convert_="all")
        return factory

    @cached_property
    def schedule(self) -> Callable[[Optimizer], LRScheduler]:
        """Makes the schedule of an optimizer."""
        factory: Callable[[Optimizer], LRScheduler] = instantiate(self.config.options["schedule"], _convert_="all")
        return factory

    def build_model(self) -> Transformer:
        """The model with its initial values."""
        return self._spare.pop() if self._spare else built(self.config, self._model_factory)

    def offer(self, model: Transformer) -> None:
        """Leave a model with its initial values to whoever asks for one next."""
        self._spare.append(model)

    def build_strategy(self) -> Any:
        """What Lightning's Trainer takes as `strategy`; each Trainer takes one of its own."""
        return build_strategy(self.config)


def build_strategy(config: RunConfig) -> Any:
    """What Lightning's Trainer takes as `strategy`. The option's `processes` are those of all nodes.

    Raises:
        UserError: it refuses a value.
    """
    return build_option(config, "strategy", processes=config.world_size)


def made_of(config: RunConfig) -> str:
    """Tell the options that a model is made of, and its task: runs that share them differ in their training alone."""
    names = ["task", "model", "parametrisation", *(axis.name for axis in called_by("model", "multimodal"))]
    return json.dumps([config.options.get(name) for name in names], sort_keys=True)


def build_task(config: RunConfig) -> Task:
    """The task with its data loaded. Raises UserError if the data are missing or the settings cannot work."""
    task: Task = build_option(config, "task", seed=config.seed)
    try:
        task.setup("fit")
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise refused("task", error) from error
    return task
