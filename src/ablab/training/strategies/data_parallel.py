"""Every process holds the model and a share of each batch; gradients are averaged as they come into being."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from ablab.training.strategies.base import Parallel

# Averages a bucket of gradients over the processes: the state that was registered with it, and the bucket.
Hook = Callable[[Any, GradBucket], Future[Tensor]]


class DataParallel(Parallel, DDPStrategy):
    """PyTorch's DistributedDataParallel (Li et al. 2020): NCCL between GPUs, gloo between CPU processes.

    Lightning's strategy wraps the LightningModule, whose one call trains on a whole block of batches here. Here the
    model itself is wrapped, so that each pass over a batch is one that DistributedDataParallel knows as such. A hook
    that Lightning would register on GPUs alone (on a CPU it says nothing and does nothing) is registered on any device.

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
            broadcast_buffers=False,  # components keep theirs equal themselves; this would send all of them every step
        )
        self._replica: DistributedDataParallel | None = None
        self._passed = False  # whether a batch has gone through

    def hook(self) -> tuple[Any, Hook] | None:
        """What averages gradients, and its state; None for DistributedDataParallel's own all-reduce."""
        return None

    def configure_ddp(self) -> None:
        assert self.lightning_module is not None
        model = self.lightning_module.model
        assert isinstance(model, nn.Module)
        self._replica = self._setup_model(model)
        if (hook := self.hook()) is not None:
            self._replica.register_comm_hook(*hook)

    def training_model(self, model: nn.Module) -> nn.Module:
        return model if self._replica is None else self._replica

    def accumulating(self) -> AbstractContextManager[Any]:
        # A static graph is learned in the first pass, which must be one that sends. The mean of means is the mean.
        if self._replica is None or not self._passed:
            self._passed = True
            return super().accumulating()
        return self._replica.no_sync()

    def teardown(self) -> None:
        self._replica = None  # its hooks hold the model
        super().teardown()


def require_several(processes: int) -> None:
    """Raises ValueError for fewer than two processes."""
    if processes < 2:
        raise ValueError(f"needs at least 2 processes, got trainer.devices={processes}: use strategy=single for one")


def world_size() -> int:
    """Number of processes of the run."""
    return torch.distributed.get_world_size()
