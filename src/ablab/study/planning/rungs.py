"""The sizes of a ladder as the baseline of a task has them: parameters, tokens, steps, compute, rate and batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ablab.config import RunConfig
from ablab.config.ladder import BATCH_EXPONENT, EXPONENTS, WIDTH, LadderConfig
from ablab.errors import UserError
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.shapes import label_of, shape_of
from ablab.tasks.base import Task
from ablab.training.build_model import build_model
from ablab.training.cost import count_body_parameters, flops_of

STEPS, EVERY, BATCH, RATE = "trainer.max_steps", "trainer.val_check_interval", "task.batch_size", "optimizer.lr"

At = Callable[[Mapping[str, Any]], RunConfig]  # the baseline's config with other values at some keys


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A size of the ladder, as the baseline of a task has it."""

    label: str  # "d_model=64,n_layers=3"
    place: int  # among the sizes, from 0
    size: Mapping[str, Any]  # what the ladder says of it, by dotted key
    settings: Mapping[str, Any]  # of the training of every variant there, by dotted key
    width: float | None
    parameters: int  # active ones outside of embeddings
    tokens: int
    flops: float | None  # of the whole run
    compute: float  # the same, or 6 for each parameter and token
    rate_factor: float = 1.0
    rate_rule: str = "constant"


def rungs_of(config: RunConfig, at: At, rules: LadderConfig, preflight: Preflight) -> list[Rung]:
    """The sizes of a ladder, from the smallest on.

    Args:
        config: of the baseline without a ladder.

    Raises:
        UserError: one that the baseline cannot have, twice the same, or not in their order.
    """
    rungs: list[Rung] = []
    for place, size in enumerate(rules.steps):
        shape = shape_of(config, size, rules)
        label = label_of(size, shape)
        try:
            rung = _rung(at, config, shape, rules, preflight, rungs)
        except UserError as error:
            raise UserError(f"{error} [at the size {label} of the ladder]") from error
        rungs.append(replace(rung, label=label, place=place, size=size))
        if place and rung.parameters <= rungs[place - 1].parameters and rung.compute <= rungs[place - 1].compute:
            raise UserError(f"ladder.sizes: {label} is no larger than {rungs[place - 1].label}; sort them by size")
    return rungs


def _rung(
    at: At,
    own: RunConfig,
    shape: Mapping[str, Any],
    rules: LadderConfig,
    preflight: Preflight,
    before: Sequence[Rung],
) -> Rung:
    config = at(shape)
    task, steps = preflight.task(config), config.trainer.max_steps
    parameters, flops = _counted(config, task)
    per_step = task.tokens_per_batch * config.trainer.accumulate_grad_batches
    ruled = rules.tokens_per_parameter is not None and STEPS not in shape
    wanted = (rules.tokens_per_parameter or 0) * parameters if ruled else steps * per_step
    compute = wanted * (6.0 * parameters if flops is None else flops)
    settings: dict[str, Any] = {}
    if before and rules.batch != "fixed" and BATCH not in shape:
        # Where steps are given, larger batches are more compute, by which they grow: this is the power that both have.
        power = BATCH_EXPONENT if ruled else BATCH_EXPONENT / (1 - BATCH_EXPONENT)
        settings[BATCH] = _batch(own, task, (compute / before[0].compute) ** power)
        per_step = per_step // task.batch_size * settings[BATCH]
        compute *= 1 if ruled else settings[BATCH] / task.batch_size
    if ruled:
        steps = settings[STEPS] = max(1, round(wanted / per_step))
    if EVERY not in shape and steps != own.trainer.max_steps:
        evaluations = max(1, own.trainer.max_steps // own.trainer.val_check_interval)
        settings[EVERY] = math.ceil(steps / evaluations)
    width = shape.get(WIDTH)
    rung = Rung(
        label="",
        place=0,
        size={},
        settings=settings,
        width=width,
        parameters=parameters,
        tokens=steps * per_step,
        flops=None if flops is None else flops * steps * per_step,
        compute=compute,
    )
    return _with_rate(rung, before[0] if before else rung, _rule_of(rules, own), rules)


def _counted(config: RunConfig, task: Task) -> tuple[int, float | None]:
    """Parameters of the baseline outside of embeddings, and its FLOPs for each token of a batch."""
    model = build_model(config, task, device="meta")
    per_sequence, _ = flops_of(model, task, lambda: build_model(config, task))
    tokens = task.tokens_per_batch / task.batch_size
    return count_body_parameters(model), None if per_sequence is None else per_sequence / tokens


def _batch(config: RunConfig, task: Task, factor: float) -> int:
    """So many times the samples of a batch, in equal shares for all processes as before."""
    unit = config.world_size if task.batch_size % config.world_size == 0 else 1
    return max(1, round(task.batch_size * factor / unit)) * unit


def _rule_of(rules: LadderConfig, config: RunConfig) -> str:
    """The rule by which rates go on: of `auto`, none where the parametrisation has a width that rates are stated at."""
    if rules.rate != "auto":
        return rules.rate
    return "constant" if "base_width" in config.options.get("parametrisation", {}) else "compute"


def _with_rate(rung: Rung, first: Rung, rule: str, rules: LadderConfig) -> Rung:
    if rule == "constant":
        return rung
    exponent = EXPONENTS[rule] if rules.rate_exponent is None else rules.rate_exponent
    if rule == "width" and (rung.width is None or first.width is None):
        raise UserError(f"ladder.rate=width: the sizes say nothing of {WIDTH}; take ladder.rate=compute or constant")
    ratio = rung.compute / first.compute if rule == "compute" else (rung.width or 1) / (first.width or 1)
    return replace(rung, rate_factor=float(ratio**exponent), rate_rule=f"{rule}^{exponent:g}")


def scaled_rate(rate: float, factor: float) -> float:
    """A learning rate times the factor of a size, in six digits."""
    return float(f"{rate * factor:.6g}")
