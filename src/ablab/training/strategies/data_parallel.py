"""Every process holds the model and a share of each batch; gradients are averaged as they come into being."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, NotRequired, Protocol, TypedDict, cast

from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from ablab.training.strategies.base import Parallel

# Passes after which buckets stay as they are: a static graph is learned in the first, its order in the second.
REHEARSALS = 2

# Components keep their buffers equal themselves; DistributedDataParallel would send all of them at every step.
_NAMES = ("forward_sync_buffers", "broadcast_buffers")  # of the setting: the new one, and the one before torch 2.13
_WITHOUT_BUFFERS: dict[str, Any] = {
    next(name for name in _NAMES if name in signature(DistributedDataParallel).parameters): False
}

# Averages a bucket of gradients over the processes: the state that was registered with it, and the bucket.
Hook = Callable[[Any, GradBucket], Future[Tensor]]


class Rehearsed(Protocol):
    """A LightningModule that can be tried out."""

    def rehearse(self, model: nn.Module) -> None:
        """One pass forward and back that leaves no trace, through `model`, which stands for the module's own."""


class DataParallelSettings(TypedDict):
    """Arguments of `DataParallel`, which strategies with others beside them hand on."""

    processes: int
    bucket_cap_mb: NotRequired[float]
    gradient_as_bucket_view: NotRequired[bool]
    static_graph: NotRequired[bool]


class DataParallel(Parallel, DDPStrategy):
    """PyTorch's DistributedDataParallel (Li et al. 2020): NCCL between GPUs, gloo between CPU processes.

    By Lightning's strategy, with two differences. A hook that Lightning would register on GPUs alone (on a CPU it says
    nothing and does nothing) is registered on any device. And DistributedDataParallel lays out its buckets in the
    order in which the first passes bring gradients; those are rehearsals before training, so that a hook that remembers
    something of each bucket finds it where it was, also when a run is resumed.

    Args:
        processes: over which batches are shared out; at least 2.
        bucket_cap_mb: gradients are sent in pieces of this size, in MiB.
        gradient_as_bucket_view: gradients have no copy beside the buckets.
        static_graph: the same parameters take part in every step.

    Raises:
        ValueError: fewer than two processes, which would be `single` under another name.
    """

    def __init__(
        self,
        *,
        processes: int,
        bucket_cap_mb: float = 25,
        gradient_as_bucket_view: bool = True,
        static_graph: bool = True,
    ) -> None:
        require_several(processes)
        super().__init__(
            bucket_cap_mb=bucket_cap_mb,
            gradient_as_bucket_view=gradient_as_bucket_view,
            static_graph=static_graph,
            **_WITHOUT_BUFFERS,
        )

    def hook(self) -> tuple[Any, Hook] | None:
        """What averages gradients, and its state; None for DistributedDataParallel's own all-reduce."""
        return None

    def configure_ddp(self) -> None:
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        for _ in range(REHEARSALS):
            cast(Rehearsed, self.lightning_module).rehearse(self.model)
        if (hook := self.hook()) is not None:
            state, average = hook
            # Not by its own name: PyTorch looks at a hook's annotations, which may not be deferred, and at its name, by
            # which it refuses bfloat16 where there is no NCCL.
            self.model.register_comm_hook(state, lambda state, bucket: average(state, bucket))


def require_several(processes: int) -> None:
    """Raises ValueError for fewer than two processes."""
    if processes < 2:
        raise ValueError(f"needs at least 2 processes, got trainer.devices={processes}: use strategy=single for one")
