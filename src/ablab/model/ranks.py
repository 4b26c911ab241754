"""The processes of a distributed run, to its components.

Processes may hold other samples than their neighbours (data parallel), or other heads and hidden units of the same
layers on the same samples (tensor parallel), or both. As long as nobody says otherwise all of them hold other samples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

_state = {"alone": False}
_groups: dict[str, ProcessGroup] = {}  # of those with this process's part of the layers, and of those with its samples


def share_layers_out(data: ProcessGroup, parts: ProcessGroup) -> None:
    """Say who holds what.

    Args:
        data: processes with the same heads and hidden units as this one, and other samples.
        parts: processes with the same samples as this one, and other heads and hidden units.
    """
    _groups.update(data=data, parts=parts)


def stand_alone(alone: bool) -> None:
    """Say whether each process now has all samples, and layers of its own that no other computes: sums are its own."""
    _state["alone"] = alone


def forget_groups() -> None:
    """Undo `share_layers_out`."""
    _groups.clear()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """`tensor` summed over all processes, in place; as it is in a run of one process. Every process must call it.

    What each part of a layer counts of its own heads or units adds up to that of the layer. What is not shared out by
    parts is counted once for each part: a ratio of two such sums is right, and a sum by itself is not.
    """
    if _is_distributed():
        dist.all_reduce(tensor)
    return tensor


def sum_over_data(tensor: Tensor) -> Tensor:
    """The same over the processes that hold other samples and the same parts of the layers as this one."""
    if _is_distributed():
        dist.all_reduce(tensor, group=_groups.get("data"))
    return tensor


def sum_over_parts(tensor: Tensor) -> Tensor:
    """The same over the processes that hold other parts of the layers and the same samples as this one."""
    if parts() > 1:
        dist.all_reduce(tensor, group=_groups["parts"])
    return tensor


def parts() -> int:
    """Among how many processes the heads and hidden units of each layer are shared out."""
    return _groups["parts"].size() if _groups else 1


def part() -> int:
    """Which of the parts this process holds."""
    return _groups["parts"].rank() if _groups else 0


def join_parts(tensor: Tensor, dim: int) -> Tensor:
    """The equally large tensors of all parts, one after the other along `dim`. Every process must call it."""
    if parts() == 1:
        return tensor
    each = [torch.empty_like(tensor) for _ in range(parts())]
    dist.all_gather(each, tensor.contiguous(), group=_groups["parts"])
    return torch.cat(each, dim)


def of_all_parts(value: Any) -> list[Any]:
    """What each part has for `value`, in their order. Every process must call it."""
    if parts() == 1:
        return [value]
    each: list[Any] = [None] * parts()
    dist.all_gather_object(each, value, group=_groups["parts"])
    return each


def of_all_ranks(value: Any) -> list[Any]:
    """What each process has for `value`, by rank. Every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    each: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(each, value)
    return each


def has_first_samples() -> bool:
    """Whether this process holds the first share of the samples. With several parts several processes do."""
    if _groups:
        return _groups["data"].rank() == 0
    return not _is_distributed() or dist.get_rank() == 0


def _is_distributed() -> bool:
    return not _state["alone"] and dist.is_available() and dist.is_initialized()
