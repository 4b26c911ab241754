"""What a model costs in use: what is kept of a sequence, and what its tokens take to compute.

Counted on the meta device, which computes nothing, for sequences that may be far longer than those of the training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ablab.config import RunConfig
from ablab.config.axes import called_by
from ablab.model.decoding import Decoder, without_cache
from ablab.model.transformer import Transformer
from ablab.tasks.base import Task

LENGTHS = {"1k": 1024, "8k": 8192, "64k": 65536}  # tokens of a sequence, by the end of a cost's name

ModelOf = Callable[[int], Transformer]

_KNOWN: dict[str, dict[str, int | None]] = {}  # of models that runs of this process had: seeds do not change it


def inference_costs(config: RunConfig, task: Task, shapes: Transformer, model_of: ModelOf) -> dict[str, Any]:
    """Those of the fields of `ablab.results.record.Cost` that tell of it; none of a model that no token follows.

    Args:
        shapes: the model on the meta device.
        model_of: makes it on the meta device, for sequences of so many tokens. A table of learned positions is
            as long then.
    """
    if task.modalities or task.pooled or task.n_outputs is not None or not task.causal:
        return {}
    axes = {axis.name: config.options.get(axis.name) for axis in called_by("model")}
    key = json.dumps([config.options["model"], axes, task.vocab_size, task.max_length], sort_keys=True, default=str)
    if key not in _KNOWN:
        try:
            _KNOWN[key] = _costs(shapes, model_of)
        except Exception:  # whatever a component makes of lengths that the run never has: the run goes on without
            _KNOWN[key] = {}
    return _KNOWN[key]


def _costs(shapes: Transformer, model_of: ModelOf) -> dict[str, Any]:
    found: dict[str, int | None] = {"prefill_flops": prefill_flops(shapes, shapes.max_length)}
    model = model_of(max(LENGTHS.values())).eval()
    for name, length in LENGTHS.items():
        found[f"cache_bytes_{name}"] = cache_bytes(model, length)
        found[f"decode_flops_{name}"] = decode_flops(model, length)
    return found


def cache_bytes(model: Transformer, length: int) -> int | None:
    """That are kept of a sequence of so many tokens; None where each token computes the whole sequence again."""
    return None if without_cache(model) else Decoder(model, batch=1, capacity=length).nbytes


def decode_flops(model: Transformer, length: int) -> int | None:
    """FLOPs of the last token of a sequence of so many, given what is kept of the others; None: not counted."""
    if without_cache(model):
        return prefill_flops(model, length)
    decoder = Decoder(model, batch=1, capacity=length)
    decoder.skip(length - 1)
    return _counted(lambda: decoder.extend(_tokens(model, 1)))


def prefill_flops(model: Transformer, length: int) -> int | None:
    """FLOPs of a sequence of so many tokens at once; None: not counted."""
    training = model.training
    try:
        model.eval()
        return _counted(lambda: model(_tokens(model, length)))
    finally:
        model.train(training)


def _tokens(model: Transformer, count: int) -> torch.Tensor:
    return torch.zeros(1, count, dtype=torch.int64, device=model.head.weight.device)


def _counted(run: Callable[[], object]) -> int | None:
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
    except Exception:  # whatever a component makes of tensors without values
        return None
    return int(counter.get_total_flops())
