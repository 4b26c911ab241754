"""A hook for DistributedDataParallel that sends the largest numbers of the gradient and keeps the rest for later."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket
from torch.futures import Future


@dataclass
class TopKState:
    """What the hook remembers.

    Attributes:
        share: of the numbers of a bucket that is sent; at least one is.
        warmup_steps: steps at the beginning that send all.
        error_feedback: keep what was not sent for the next step.
        held_back: by bucket, what this process has not sent yet.
        step: steps taken.
    """

    share: float
    warmup_steps: int = 0
    error_feedback: bool = True
    held_back: dict[int, Tensor] = field(default_factory=dict)
    step: int = 0


def send_largest(state: TopKState, bucket: GradBucket) -> Future[Tensor]:
    """The mean over the processes of the largest numbers of each one's gradient.

    With g the gradient of a process and e what it has held back, 0 at first:

        sent = the share of g + e that is largest in size, zero elsewhere
        e <- g + e - sent

    and the mean of what was sent takes the gradient's place (Stich et al. 2018, "Sparsified SGD with Memory",
    algorithm 1, in parallel as in section 4; Aji and Heafield 2017). Values and places travel in one all-gather, 8
    bytes for each number. Deviation: the largest are found in each bucket, not in the whole gradient.
    """
    gradient, index = bucket.buffer(), bucket.index()
    last = bucket.is_last()
    if state.step < state.warmup_steps:
        state.step += last
        gradient.div_(dist.get_world_size())
        return dist.all_reduce(gradient, async_op=True).get_future().then(lambda future: future.value()[0])
    state.step += last
    wanted = gradient.float()
    if index in state.held_back:
        wanted = wanted + state.held_back[index]
    places = wanted.abs().topk(max(1, round(state.share * wanted.numel())), sorted=False).indices
    values = wanted[places]
    if state.error_feedback:
        state.held_back[index] = wanted.index_fill(0, places, 0.0)
    packed = torch.stack([values, places.int().view(torch.float32)])  # bits of whole numbers, untouched on their way
    everyones = packed.new_empty(dist.get_world_size() * len(packed), packed.shape[1])
    work = dist.all_gather_into_tensor(everyones, packed, async_op=True)
    assert work is not None

    def unpack(future: Future[list[Tensor]]) -> Tensor:
        future.value()
        gradient.zero_()
        for sent, where in everyones.view(dist.get_world_size(), *packed.shape):
            gradient.index_add_(0, where.view(torch.int32), (sent / dist.get_world_size()).to(gradient.dtype))
        return gradient

    return work.get_future().then(unpack)
