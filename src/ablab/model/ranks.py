"""The processes of a distributed run, to its components.

Processes may hold other samples than their neighbours (data parallel), or other heads and hidden units of the same
layers on the same samples (tensor parallel, "tp"), or both. As long as nobody says otherwise all of them hold other
samples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

_state = {"alone": False}
_groups: dict[str, ProcessGroup] = {}  # of those with this process's part of the layers, and of those with its samples


def set_groups(*, data: ProcessGroup, tensor: ProcessGroup) -> None:
    """Say who holds what.

    Args:
        data: processes with the same heads and hidden units as this one, and other samples.
        tensor: processes with the same samples as this one, and other heads and hidden units.
    """
    _groups.update(data=data, tensor=tensor)


def forget_groups() -> None:
    """Undo `set_groups`."""
    _groups.clear()


def stand_alone(alone: bool) -> None:
    """Say whether each process now has all samples, and layers of its own that no other computes: sums are its own."""
    _state["alone"] = alone


def tp_size() -> int:
    """The number of processes among which the heads and hidden units of each layer are shared out."""
    return _groups["tensor"].size() if _groups else 1


def tp_rank() -> int:
    """The number of this process among these."""
    return _groups["tensor"].rank() if _groups else 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all processes, in place; it stays as it is in a run of one. Every process must call it.

    What each process counts of its own heads or units adds up to that of the layer. What is not shared out among
    processes is counted by each of them: a ratio of two such sums is right, and a sum by itself is not.
    """
    if _is_distributed():
        dist.all_reduce(tensor)
    return tensor


def sum_over_data(tensor: Tensor) -> Tensor:
    """Sum over the processes that hold other samples and the same heads and units as this one, in place."""
    if _is_distributed():
        dist.all_reduce(tensor, group=_groups.get("data"))
    return tensor


def sum_over_tp_ranks(tensor: Tensor) -> Tensor:
    """Sum over the processes that hold other heads and units and the same samples as this one, in place."""
    if tp_size() > 1:
        dist.all_reduce(tensor, group=_groups["tensor"])
    return tensor


def cat_over_tp_ranks(tensor: Tensor, dim: int) -> Tensor:
    """Join the equally large tensors of these processes along `dim`, by rank. Every process must call it."""
    if tp_size() == 1:
        return tensor
    each = [torch.empty_like(tensor) for _ in range(tp_size())]
    dist.all_gather(each, tensor.contiguous(), group=_groups["tensor"])
    return torch.cat(each, dim)


def of_tp_ranks(value: Any) -> list[Any]:
    """The values that each of these processes has, by rank. Every process must call it."""
    if tp_size() == 1:
        return [value]
    each: list[Any] = [None] * tp_size()
    dist.all_gather_object(each, value, group=_groups["tensor"])
    return each


def of_all_ranks(value: Any) -> list[Any]:
    """The values that all processes have, by rank. Every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    each: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(each, value)
    return each


def has_first_samples() -> bool:
    """Whether this process holds the first share of the samples. With tensor parallelism several processes do."""
    if _groups:
        return _groups["data"].rank() == 0
    return not _is_distributed() or dist.get_rank() == 0


def _is_distributed() -> bool:
    return not _state["alone"] and dist.is_available() and dist.is_initialized()
