"""Data parallel training that sends less than the gradient: in fewer bits, at low rank, or its largest numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Unpack

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.futures import Future
from torch.optim.optimizer import StateDict

from ablab.errors import require_at_least
from ablab.training.strategies.data_parallel import DataParallel, DataParallelSettings, Hook


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
        reduced: Future[Tensor] = dist.all_reduce(gradient, async_op=True).get_future().then(lambda one: one.value()[0])
        return reduced
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

    unpacked: Future[Tensor] = work.get_future().then(unpack)
    return unpacked


class CastDataParallel(DataParallel):
    """Gradients travel, and are summed up, in 16 bits: half the bytes of float32.

    PyTorch's hooks, which divide by the number of processes before they cast. float16 has 11 significant bits and
    overflows above 65504; bfloat16 has 8 and the range of float32.

    Args:
        dtype: "float16" or "bfloat16".
        settings: those of `DataParallel`.

    Raises:
        ValueError: another type.
    """

    def __init__(
        self,
        *,
        dtype: Literal["float16", "bfloat16"],
        **settings: Unpack[DataParallelSettings],
    ) -> None:
        if dtype not in _CASTS:
            raise ValueError(f"dtype={dtype}: must be {' or '.join(_CASTS)}")
        super().__init__(**settings)
        self._dtype = dtype

    def hook(self) -> tuple[Any, Hook]:
        return None, _CASTS[self._dtype]


class PowerSgdDataParallel(DataParallel):
    """Each matrix of the gradient travels as a product of two thin ones (Vogels et al. 2019, PowerSGD, section 3).

    By PyTorch's hook: one step of subspace iteration, from the factors of the step before. What the product leaves out
    is kept by each process and added to its next gradient (error feedback). Vectors, and matrices for which it would
    save less than half, travel whole.

    Args:
        rank: width of the thin matrices, at least 1.
        warmup_steps: steps at the beginning that send all; the source has none.
        error_feedback: keep what was left out.
        settings: those of `DataParallel`.

    Raises:
        ValueError: a number is out of its range.
    """

    takes_scaled = False  # what is held back has the scale of its step, and after an overflow never a finite number

    def __init__(
        self,
        *,
        rank: int = 1,
        warmup_steps: int = 0,
        error_feedback: bool = True,
        **settings: Unpack[DataParallelSettings],
    ) -> None:
        require_at_least(1, rank=rank)
        require_at_least(0, warmup_steps=warmup_steps)
        super().__init__(**settings)
        self._rank, self._warmup, self._error_feedback = rank, warmup_steps, error_feedback
        self._state: PowerSGDState | None = None

    def hook(self) -> tuple[Any, Hook]:
        # PyTorch asks for two steps before the first compression, since buckets are laid out anew after the first
        # pass; that one is behind us.
        self._state = PowerSGDState(
            None, self._rank, start_powerSGD_iter=max(2, self._warmup), use_error_feedback=self._error_feedback
        )
        self._state.start_powerSGD_iter = self._warmup
        return self._state, _one_bucket_at_a_time

    def mechanism(self) -> dict[str, float]:
        return {} if self._state is None else held_back(self._state.error_dict)

    def notes(self, steps: int) -> list[str]:
        return never_compressed(self._warmup, steps)

    def shared_state(self) -> StateDict:
        assert self._state is not None
        kind, keys, *rest = self._state.rng.get_state(legacy=True)
        return {
            "iteration": self._state.iter,
            "random": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
            "p": self._state.p_memory_dict,
            "q": self._state.q_memory_dict,
        }

    def load_shared_state(self, state: StateDict) -> None:
        assert self._state is not None
        kind, keys, *rest = state["random"]
        self._state.iter = state["iteration"]
        self._state.rng.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
        self._state.p_memory_dict, self._state.q_memory_dict = state["p"], state["q"]

    def own_state(self) -> StateDict:
        assert self._state is not None
        return {"held_back": self._state.error_dict}

    def load_own_state(self, states: list[StateDict], rank: int) -> None:
        assert self._state is not None
        own = shared_out(states, rank, dist.get_world_size())
        self._state.error_dict = move_data_to_device(own, self.root_device)


class TopKDataParallel(DataParallel):
    """The largest numbers of each bucket of the gradient travel, with their places; see `send_largest`.

    Args:
        share: of the numbers that is sent, above 0 and at most 1. Each takes 8 bytes, its place included.
        warmup_steps: steps at the beginning that send all.
        error_feedback: keep what was not sent for the next step.
        settings: those of `DataParallel`.

    Raises:
        ValueError: a number is out of its range.
    """

    takes_scaled = False  # as in `PowerSgdDataParallel`

    def __init__(
        self,
        *,
        share: float = 0.01,
        warmup_steps: int = 0,
        error_feedback: bool = True,
        **settings: Unpack[DataParallelSettings],
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share} must be above 0 and at most 1")
        require_at_least(0, warmup_steps=warmup_steps)
        super().__init__(**settings)
        self._state = TopKState(share, warmup_steps, error_feedback)

    def hook(self) -> tuple[Any, Hook]:
        return self._state, send_largest

    def mechanism(self) -> dict[str, float]:
        return held_back(self._state.held_back)

    def notes(self, steps: int) -> list[str]:
        return never_compressed(self._state.warmup_steps, steps)

    def shared_state(self) -> StateDict:
        return {"step": self._state.step}

    def load_shared_state(self, state: StateDict) -> None:
        self._state.step = state["step"]

    def own_state(self) -> StateDict:
        return {"held_back": self._state.held_back}

    def load_own_state(self, states: list[StateDict], rank: int) -> None:
        own = shared_out(states, rank, dist.get_world_size())
        self._state.held_back = move_data_to_device(own, self.root_device)


def shared_out(states: list[StateDict], rank: int, processes: int) -> dict[int, Tensor]:
    """What the process `rank` of `processes` holds back, by bucket, after a run of `len(states)` processes.

    Among another number of processes everyone takes the mean: what is added to the mean gradient stays the same.
    """
    if len(states) == processes:
        own: dict[int, Tensor] = states[rank]["held_back"]
        return own
    each = [state["held_back"] for state in states]
    return {index: torch.stack([one[index] for one in each]).mean(0) for index in each[0]}


def held_back(buckets: dict[int, Tensor]) -> dict[str, float]:
    """The norm of what this process has not sent yet."""
    if not buckets:
        return {}
    return {"held_back_norm": float(torch.stack([tensor.float().norm() for tensor in buckets.values()]).norm())}


def never_compressed(warmup: int, steps: int) -> list[str]:
    """A line on a run that ends within its warm-up."""
    return [] if warmup < steps else [f"nothing was compressed: the warm-up takes {warmup} steps of {steps}"]


def _one_bucket_at_a_time(state: PowerSGDState, bucket: GradBucket) -> Future[Tensor]:
    """PyTorch's hook, whose later messages are sent, and waited for, by the thread that has received the first.

    Of such threads gloo has two. With two buckets under way both would wait for a message that neither can receive.
    """
    future = powerSGD_hook(state, bucket)
    if bucket.buffer().device.type == "cpu":
        future.wait()
    return future


_CASTS: dict[str, Hook] = {"float16": default_hooks.fp16_compress_hook, "bfloat16": default_hooks.bf16_compress_hook}
