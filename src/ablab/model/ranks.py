"""The processes of a distributed run, to its components."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """`tensor` summed over all processes, in place; as it is in a run of one process. Every process must call it."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def is_first_rank() -> bool:
    """Whether this is the first process of a distributed run, or the only one."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
