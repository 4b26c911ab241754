"""Whether the seeds of a run can be stacked: found by trying it on two seeds, beside passes of each by itself.

All is computed in double precision, in which rounding is far below what is told apart, and on few samples.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ablab.errors import UserError, one_line
from ablab.model.mechanism import MechanismProbe
from ablab.model.transformer import Transformer
from ablab.tasks.base import Batch, Inputs, Task
from ablab.training.build import BuiltRun
from ablab.training.cost import count_parameters, without_trace
from ablab.training.optimizers.groups import build_optimizer
from ablab.training.stacked.model import StackedModel

MOST_PARAMETERS = 20_000_000  # larger models keep a device busy one by one
SAMPLES, STEPS = 2, 2
SAME = 1e-9  # relative difference
_FALLBACK = "performance drop because we have not yet implemented the batching rule for "


def why_not_stacked(built: BuiltRun) -> str | None:
    """Say in a clause why the run cannot be trained in a stack; None where it can.

    Raises:
        UserError: the run cannot work at all.
    """
    if (reason := _refused(built)) is not None:
        return reason
    with without_trace(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = _tried(built)
        except UserError:
            raise
        except Exception as error:  # of whatever a component does that has no form for several seeds
            return f"its pass cannot be made for several seeds ({type(error).__name__}: {_short(one_line(error))})"
    slow = [
        str(each.message).partition(_FALLBACK)[2].partition(".")[0] for each in told if _FALLBACK in str(each.message)
    ]
    return found or (f"torch would go through the seeds one by one in {slow[0]}" if slow else None)


def _refused(built: BuiltRun) -> str | None:
    config = built.config
    trainer = config.options["trainer"]
    if config.world_size > 1 or ("strategy" in config.options and config.chosen("strategy") != "strategy=single"):
        return f"{config.chosen('strategy')} has processes of its own"
    if config.trainer.precision not in (None, "32-true", "32", 32):
        return f"trainer.precision={config.trainer.precision}: seeds are stacked in single precision"
    for name in ("profiler", "compile"):
        if trainer.get(name):
            return f"trainer.{name} looks at one run alone"
    if config.budget.match == "time":
        return "budget.match=time measures the speed of runs that are alone"
    if count_parameters(built.shapes) > MOST_PARAMETERS:
        return f"it has more than {MOST_PARAMETERS // 10**6} million parameters, and fills a device by itself"
    return None


def _short(text: str, longest: int = 160) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


@dataclass
class _Seed:
    """A seed by itself, and its double in the stack."""

    alone: Transformer
    stacked: Transformer
    optimizer: Any
    batches: list[Batch]


def _tried(built: BuiltRun) -> str | None:
    """A few steps of two seeds, alone and stacked; what differs, if anything does."""
    seeds = [_seed(built, built.config.seed + more) for more in range(2)]
    stack = StackedModel(built.build_model().double(), built.task, len(seeds))
    for step in range(STEPS):
        for each in seeds:
            for model in (each.alone, each.stacked):
                model.train()
                model.resample(step)
        passed = stack({i: s.stacked for i, s in enumerate(seeds)}, {i: s.batches[step] for i, s in enumerate(seeds)})
        for index, each in enumerate(seeds):
            total = _pass(each.alone, built.task, each.batches[step])
            gradients = {name: p.grad for name, p in each.alone.named_parameters()}
            if not _near(total, passed[index].total) or not _all_near(gradients, passed[index].gradients):
                return "a pass for several seeds does not compute what each of them does by itself"
            _step(each)
            if not _all_near(dict(each.alone.named_buffers()), dict(each.stacked.named_buffers())):
                return "a component keeps what it saw in training, which a pass for several seeds does not leave there"
    told = [[_metrics(model, each.batches[0]) for model in (each.alone, each.stacked)] for each in seeds]
    if any(not _same_numbers(alone, stacked) for alone, stacked in told):
        return "a component tells of what it saw in training, which a pass for several seeds does not leave there"
    return None


def _seed(built: BuiltRun, seed: int) -> _Seed:
    own = replace(built, config=replace(built.config, seed=seed))
    alone, stacked = own.build_model().double(), own.build_model().double()
    optimizer: Any = build_optimizer(built.optimizer, alone)
    getattr(optimizer, "train", lambda: None)()
    return _Seed(alone, stacked, optimizer, list(_batches(built.task, seed)))


def _batches(task: Task, seed: int) -> Iterator[Batch]:
    """A batch for each step; of each seed others."""
    one = copy.copy(task)
    one.batch_size, one.workers, one.seed = SAMPLES, 0, seed
    for inputs, targets in itertools.islice(one.train_dataloader(), STEPS):
        yield _double(inputs), targets


def _double(inputs: Inputs) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs.double() if inputs.is_floating_point() else inputs
    return {name: each.double() if each.is_floating_point() else each for name, each in inputs.items()}


def _pass(model: Transformer, task: Task, batch: Batch) -> Tensor:
    inputs, targets = batch
    model.zero_grad()
    total = task.loss(model(inputs, targets=targets), targets) + model.penalty()
    total.backward()
    return total.detach()


def _step(seed: _Seed) -> None:
    """The optimizer's, by the gradients of the one that is alone, so that both go on from the same weights."""
    seed.optimizer.step()
    with torch.no_grad():
        for own, double in zip(seed.alone.parameters(), seed.stacked.parameters(), strict=True):
            double.copy_(own)
    for model in (seed.alone, seed.stacked):
        model.after_step()


def _metrics(model: Transformer, batch: Batch) -> dict[str, float]:
    probe = MechanismProbe(model, pictured=False, strict=True)
    probe.attach()
    with torch.no_grad():
        model.eval()(batch[0], targets=batch[1])
    probe.detach()
    return probe.metrics()


def _all_near(some: Mapping[str, Tensor | None], others: Mapping[str, Tensor | None]) -> bool:
    return all(_near(each, others.get(name)) for name, each in some.items())


def _near(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are the same but for rounding. No gradient is one of zeros."""
    if one is None or other is None:
        left = one if other is None else other
        return left is None or not bool(left.any())
    if not one.is_floating_point():
        return torch.equal(one, other)
    scale = float(one.double().abs().max()) if one.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=SAME, atol=SAME * scale + 1e-15, equal_nan=True)


def _same_numbers(some: Mapping[str, float], others: Mapping[str, float]) -> bool:
    def near(a: float, b: float) -> bool:
        return a == b or (a != a and b != b) or abs(a - b) <= 1e-6 * max(abs(a), abs(b), 1e-6)

    return some.keys() == others.keys() and all(near(value, others[name]) for name, value in some.items())
