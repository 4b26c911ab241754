"""What can be made equal by a budget, and how much of it a config has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.model.transformer import Transformer
from ablab.tasks.base import Task
from ablab.training.build_model import build_model, model_factory, of_length
from ablab.training.cost import count_active_parameters, count_parameters, flops_of
from ablab.training.inference import cache_bytes, decode_flops

IN_USE = ("kv_rank", "window", "n_kv_heads", "d_model")  # of what is kept of a sequence


@dataclass(frozen=True)
class Unit:
    """What is to be equal, and how one says it."""

    plural: str
    measure: Callable[[RunConfig, Task], int] | None  # None: it cannot be counted
    levers: tuple[str, ...]  # what may be adjusted; the first that a variant has, unless another is asked for


def _parameters(config: RunConfig, task: Task) -> int:
    return count_parameters(build_model(config, task, device="meta"))


def _active_parameters(config: RunConfig, task: Task) -> int:
    return count_active_parameters(build_model(config, task, device="meta"))


def _flops(config: RunConfig, task: Task) -> int:
    model = build_model(config, task, device="meta")
    per_sequence, _ = flops_of(model, task, lambda: build_model(config, task))
    if per_sequence is None:
        raise UserError("budget.match=flops: the FLOPs of a variant cannot be counted: use params, tokens or time")
    return per_sequence * task.batch_size * _batches(config)


def _tokens(config: RunConfig, task: Task) -> int:
    return task.tokens_per_batch * _batches(config)


def _batches(config: RunConfig) -> int:
    steps: int = config.trainer.max_steps * config.trainer.accumulate_grad_batches
    return steps


def _cache_bytes(config: RunConfig, task: Task) -> int:
    kept = cache_bytes(_in_use(config, task), config.budget.length)
    if kept is None:
        raise UserError(
            f"budget.match=kv: {config.chosen('attention')} keeps nothing of a sequence and computes it again for each "
            "token: choose another attention or another budget.match"
        )
    return kept


def _decode_flops(config: RunConfig, task: Task) -> int:
    flops = decode_flops(_in_use(config, task), config.budget.length)
    if flops is None:
        raise UserError("budget.match=decode_flops: the FLOPs of a token of a variant cannot be counted")
    return flops


def _in_use(config: RunConfig, task: Task) -> Transformer:
    """The model for sequences of the budget's length, without values."""
    if task.modalities or task.pooled or task.n_outputs is not None or not task.causal:
        raise UserError(
            f"budget.match={config.budget.match}: {config.chosen('task')} asks for no text that goes on by tokens: "
            "choose another budget.match"
        )
    return of_length(config, model_factory(config, task), config.budget.length, task.max_length).eval()


UNITS = {
    "params": Unit("parameters", _parameters, ("d_ff", "d_model")),
    "active_params": Unit("active parameters", _active_parameters, ("d_ff", "d_model")),
    "flops": Unit("FLOPs", _flops, ("steps", "d_ff", "d_model")),
    "tokens": Unit("tokens", _tokens, ("steps",)),
    "time": Unit("seconds", None, ("steps",)),
    "kv": Unit("bytes of cache", _cache_bytes, IN_USE),
    "decode_flops": Unit("FLOPs of a token", _decode_flops, ("d_ff", *IN_USE)),
}
