"""Between shards of a run's state, as processes hold them, and the whole of it, as checkpoints have it.

Whole states are those of a run of one process. Every process calls what gathers them; what it need not keep it drops
at once, so that no process but the first ever holds more than one whole tensor beside its own shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ablab.training.strategies.shards import Layout, Shards, local

# Of a shard of the optimizer's parameter of that number, what a checkpoint is to hold in its place.
Gather = Callable[[int, Tensor], Any]


@torch.no_grad()
def weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers of a model by name, one after the other, each whole."""
    for name, tensor in model.state_dict().items():
        yield name, Layout.of(tensor).whole(local(tensor))


@torch.no_grad()
def load_weights(model: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Take from whole weights what this process holds of them.

    Raises:
        RuntimeError: they are not those of such a model.
    """
    own = model.state_dict()
    if own.keys() != given.keys():
        raise RuntimeError(f"weights of another model: {', '.join(sorted(own.keys() ^ given.keys()))}")
    for name, tensor in own.items():
        layout = Layout.of(tensor)
        if layout.shape != given[name].shape:
            raise RuntimeError(f"weights of another model: {name} is {tuple(given[name].shape)}")
        local(tensor).copy_(layout.shard_of(given[name]))


def optimizer_by(gather: Gather, state: dict[str, Any], shards: Shards) -> dict[str, Any]:
    """An optimizer's `state_dict`, with what `gather` makes of each shard."""
    gathered = {}
    for index, own in sorted(state["state"].items()):
        shape = shards.held[index].shape
        gathered[index] = {
            key: gather(index, value) if _has_shape(value, shape) else value for key, value in own.items()
        }
    return {**state, "state": gathered}


def cut_optimizer(state: dict[str, Any], shards: Shards) -> dict[str, Any]:
    """The part of a whole optimizer's `state_dict` that this process holds."""
    cut = {}
    for index, own in state["state"].items():
        layout = shards.layouts[index]
        cut[index] = {
            key: layout.shard_of(value).clone() if _has_shape(value, layout.shape) else value
            for key, value in own.items()
        }
    return {**state, "state": cut}


def schedule_by(gather: Gather, state: dict[str, Any], schedule: Any) -> None:
    """Put what `gather` makes of each shard into a schedule's `state_dict`."""
    for name in getattr(schedule, "per_parameter", ()):
        state[name] = [gather(index, each) for index, each in enumerate(state[name])]


def cut_schedule(state: dict[str, Any], schedule: Any, shards: Shards) -> None:
    """Undo `schedule_by`."""
    for name in getattr(schedule, "per_parameter", ()):
        if state[name]:
            held = zip(shards.layouts, state[name], shards.held, strict=True)
            state[name] = [layout.shard_of(each).to(shard.device, copy=True) for layout, each, shard in held]


def _has_shape(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape
