"""What cores share that work through a sequence slice by slice, so that they stay in the cache or in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

GPU_SLICES = 64  # times as much at one time on a GPU as on a CPU


def at_once(on_cpu: int, device: torch.device) -> int:
    """How many elements one call computes: `on_cpu`, chosen for the cache of a CPU, or more.

    A GPU is busy with a call only if it is large, and starting thousands of small ones takes most of the time.
    """
    return on_cpu if device.type == "cpu" else on_cpu * GPU_SLICES


def recomputed(function: Callable[..., Tensor], *args: Any, random: bool = False) -> Tensor:
    """function(*args); where a gradient is wanted, keeps the arguments alone and computes the rest again for it.

    Args:
        random: whether the function draws random numbers, which must come out the same the second time.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    result: Tensor = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=random)
    return result


def highest(scores: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Where the `count` highest scores of each row are among those allowed; all of these, where they are fewer.

    Of equal scores the later place is taken, so that the choice is a function of the scores alone.

    Args:
        scores: (..., S, N).
        allowed: bool, broadcastable to the same shape.
        count: at least 1.

    Returns:
        bool, (..., S, N).
    """
    scores = scores.masked_fill(~allowed, float("-inf"))
    if count >= scores.shape[-1]:
        return allowed.expand(scores.shape)
    least = scores.topk(count).values[..., -1:]
    above, level = scores > least, scores == least
    room = count - above.sum(-1, keepdim=True)
    later = level.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1)  # how many of them stand here or later
    return (above | (level & (later <= room))) & allowed
